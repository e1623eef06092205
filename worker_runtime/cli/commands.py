"""The command line. Each command lives in a function here or in a module of its own; a module adds
its commands to `main` with `main.add_command`."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from worker_runtime import __version__
from worker_runtime.cli.jobs import jobs
from worker_runtime.cli.stats import stats
from worker_runtime.contracts.guides import GUIDES
from worker_runtime.errors import ConfigurationError
from worker_runtime.model.bounded import one_line
from worker_runtime.settings import Settings, checked

# What belongs to the process rather than to the runtime it serves.
_PROCESS_FIELDS = (
    "host",
    "port",
    "metrics_port",
    "dialects",
    "token",
    "allow_anonymous",
    "hosts",
    "cors_origins",
    "log_level",
    "log_format",
)
EXIT_WRONG_CONFIGURATION = 2

logger = logging.getLogger("worker_runtime.cli")


@dataclass(frozen=True)
class ListenOptions:
    """What the command line says about listening; it wins over everything else. None: nothing."""

    host: str | None
    port: int | None
    dialects: tuple[str, ...] | None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def arguments(self) -> list[str]:
        """The same options, for another command line."""
        texts = {**self.given(), "dialects": self.dialects and ",".join(self.dialects)}
        return [f"--{name}={text}" for name, text in texts.items() if text is not None]


@dataclass(frozen=True)
class LogOptions:
    """What the command line says about logging. `log_dict`: an import path, for arq's settings."""

    verbose: bool
    log_dict: str | None

    def given(self) -> dict[str, Any]:
        return {"log_level": "DEBUG"} if self.verbose else {}

    def arguments(self) -> list[str]:
        named = [] if self.log_dict is None else [f"--custom-log-dict={self.log_dict}"]
        return named + ["--verbose"] * self.verbose


def _dialects(context: click.Context, parameter: click.Parameter, text: str | None) -> object:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in GUIDES:
            _refuse(f"--dialects: {name!r} is not a dialect; allowed: {', '.join(GUIDES)}")
    return names


def _refuse(message: str) -> NoReturn:
    """End with one line that says what is wrong."""
    click.echo(f"worker-runtime: {one_line(' '.join(message.split()))}", err=True)
    sys.exit(EXIT_WRONG_CONFIGURATION)


@click.group()
@click.version_option(__version__, prog_name="worker-runtime")
def main() -> None:
    """Run jobs in one asyncio process: embedded, durable, without a broker."""


@main.command()
@click.argument("target", required=False)
@click.option("--check", is_flag=True, help="Exit 0 if a worker answers healthy, 1 if not.")
@click.option(
    "--burst/--no-burst", default=None, help="Run what waits without listening, then exit."
)
@click.option(
    "--watch",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Restart when a Python file in DIR changes.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more, as LOG_LEVEL=DEBUG does.")
@click.option(
    "--custom-log-dict",
    "log_dict",
    metavar="PATH",
    help="With an arq settings class: where the dictionary for its logging is imported from.",
)
@click.option("--host", help="Address to listen on.  [env: WORKER_HOST; default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 chooses a free one.  [env: PORT; default: 8080]",
)
@click.option(
    "--dialects",
    callback=_dialects,
    metavar="A,B",
    help=f"HTTP contracts to speak.  [env: WORKER_DIALECTS; default: {','.join(GUIDES)}]",
)
def run(
    target: str | None,
    check: bool,
    burst: bool | None,
    watch: Path | None,
    verbose: bool,
    log_dict: str | None,
    host: str | None,
    port: int | None,
    dialects: tuple[str, ...] | None,
) -> None:
    """Serve TARGET until SIGTERM or Ctrl-C.

    TARGET is module:attribute (a Runtime, a function that returns one, or a list of tasks), module
    (its functions marked with @task), or package.module.WorkerSettings (an arq settings class;
    several with commas). Without one, example tasks are served.
    """
    if check + bool(burst) + (watch is not None) > 1:
        raise click.UsageError("--check, --burst and --watch exclude each other")
    options = ListenOptions(host, port, dialects)
    logs = LogOptions(verbose, log_dict)
    if check:
        sys.exit(_check(target, options))
    from worker_runtime.standalone.server import leave

    try:
        if watch:
            code = _watch(watch, target, options, logs)
        else:
            code = _run(target, options, logs, burst=burst)
    except ConfigurationError as error:
        _refuse(str(error))
    except Exception:
        logger.exception("the worker failed")
        leave(1)
    else:
        leave(code)


_urls = click.argument("urls", nargs=-1, required=True, metavar="URL...")
_token = click.option("--token", envvar="WORKER_TOKEN", help="Bearer token.  [env: WORKER_TOKEN]")


@main.group()
def fleet() -> None:
    """Look at many workers at once."""


@fleet.command()
@_urls
@_token
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(urls: tuple[str, ...], token: str | None, as_json: bool) -> None:
    """Print every worker's health once; exit 1 if one cannot be reached.

    URL is a worker's, or that of a backend that lists its workers.
    """
    from worker_runtime.cli.fleet import print_status

    sys.exit(print_status(urls, token=token, as_json=as_json))


@main.command()
@_urls
@_token
@click.option("--interval", default=1.0, type=click.FloatRange(0.1, 3600), help="Seconds.")
@click.option("--count", default=0, type=click.IntRange(0), help="End after so many looks.")
def top(urls: tuple[str, ...], token: str | None, interval: float, count: int) -> None:
    """Watch workers live: load, CPU, memory, jobs per second."""
    from worker_runtime.cli.fleet import watch_live

    watch_live(urls, token=token, interval_s=interval, looks_max=count)


main.add_command(jobs)
main.add_command(stats)


def _check(target: str | None, options: ListenOptions) -> int:
    from worker_runtime.standalone.health_check import check_health
    from worker_runtime.standalone.target import arq_settings

    try:
        # A plain module is asked over HTTP, without the cost and the risk of importing it.
        name = (target or "").replace(":", ".").rpartition(".")[2]
        sources = arq_settings(target) if name[:1].isupper() else []
        if sources:
            from worker_runtime.standalone import settings_classes

            return settings_classes.check_health(sources)
        healthy, text = check_health(Settings.from_environment(**options.given()))
    except ConfigurationError as error:
        healthy, text = False, str(error)
    click.echo(text, err=not healthy)
    return 0 if healthy else 1


def _watch(directory: Path, target: str | None, options: ListenOptions, logs: LogOptions) -> int:
    from worker_runtime.standalone.log_setup import configure_logging
    from worker_runtime.standalone.reload import Supervisor

    settings = Settings.from_environment(**options.given())
    configure_logging(settings.log_level, settings.log_format)
    command = [sys.executable, "-m", "worker_runtime", "run", *options.arguments()]
    command += logs.arguments()
    if target is not None:
        command.append(target)
    return Supervisor(command, directory, stop_within_s=settings.stop_within_s).run()


def _run(
    target: str | None, options: ListenOptions, logs: LogOptions, *, burst: bool | None
) -> int:
    from worker_runtime.standalone import server
    from worker_runtime.standalone.example_tasks import commands_to_try
    from worker_runtime.standalone.log_setup import configure_logging
    from worker_runtime.standalone.reload import end_with_supervisor
    from worker_runtime.standalone.target import arq_settings, load_runtime

    settings = Settings.from_environment(**options.given(), **logs.given())
    configure_logging(settings.log_level, settings.log_format)
    end_with_supervisor()
    sources = arq_settings(target)
    if sources:
        from worker_runtime.standalone import settings_classes

        return settings_classes.run(
            sources,
            settings,
            burst=burst,
            listens=bool(options.given()),
            verbose=logs.verbose,
            log_dict=logs.log_dict,
        )
    if logs.log_dict is not None:
        raise ConfigurationError("--custom-log-dict goes with an arq settings class only")
    runtime = load_runtime(target, settings)
    settings = _merged(runtime.settings, settings, options)
    configure_logging(settings.log_level, settings.log_format)
    if burst:
        return server.drain(runtime, settings)

    def on_listening(url: str) -> None:
        if target is None and settings.log_format == "text":
            click.echo("\n".join(["Try:", *commands_to_try(url, with_token=bool(settings.token))]))

    return server.serve(runtime, settings, on_listening=on_listening)


def _merged(own: Settings, environment: Settings, options: ListenOptions) -> Settings:
    """A target's own settings; what it left at the default comes from the environment, where the
    process is concerned, and the command line wins."""
    defaults = Settings()
    changes = {
        name: getattr(environment, name)
        for name in _PROCESS_FIELDS
        if getattr(own, name) == getattr(defaults, name)
    }
    return checked(own, **{**changes, **options.given()})
