"""Run arq settings classes as a process: several side by side, to the end or until a signal."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from worker_runtime.arq.health_check import has_worker
from worker_runtime.arq.settings import import_path, read_settings
from worker_runtime.arq.worker import ArqWorker
from worker_runtime.errors import ConfigurationError
from worker_runtime.settings import Settings
from worker_runtime.standalone import server
from worker_runtime.standalone.log_setup import TextFormatter, configure_logging
from worker_runtime.standalone.stop_signals import StopRequest

logger = logging.getLogger("arq.worker")


def run(
    sources: Sequence[Any],
    settings: Settings,
    *,
    burst: bool | None = None,
    listens: bool = False,
    verbose: bool = False,
    log_dict: str | None = None,
) -> int:
    """Run a worker for each settings class until a stop signal; `burst`: until their queues are
    empty, None as each says. `listens`: the only one is also served over HTTP. `log_dict`: import
    path of a logging dictionary. Returns the exit code; raises ConfigurationError."""
    if log_dict is None:
        configure_arq_logging(settings, verbose=verbose)
    else:
        _use_log_dict(log_dict)
    overrides = {} if burst is None else {"burst": burst}
    workers = [ArqWorker(source, settings=settings, **overrides) for source in sources]
    if listens:
        if len(workers) > 1:
            raise ConfigurationError("--host and --port go with one settings class, not several")
        return server.serve(workers[0].runtime, workers[0].runtime.settings)
    stop_within_s = max(worker.runtime.settings.stop_within_s for worker in workers)

    async def main(stopping: StopRequest) -> None:
        started: list[ArqWorker] = []
        stopped = asyncio.ensure_future(stopping.wait())
        drained = None
        try:
            for worker in workers:
                await worker.start()
                started.append(worker)
            drained = asyncio.ensure_future(_drained(workers))
            await asyncio.wait((stopped, drained), return_when=asyncio.FIRST_COMPLETED)
        finally:
            cause = stopping.cause or "burst end"
            stopped.cancel()
            if drained is not None:
                drained.cancel()
            await asyncio.gather(*(worker.stop(cause=cause) for worker in started))

    server.own_process(main, msgspec.structs.replace(settings, stop_within_s=stop_within_s))
    return 0


async def _drained(workers: Sequence[ArqWorker]) -> None:
    """Return when every worker that runs in burst mode has nothing left; never without one."""
    if not all(worker.settings.burst for worker in workers):
        await asyncio.get_running_loop().create_future()
    for worker in workers:
        await worker.drain()


def check_health(sources: Sequence[Any]) -> int:
    """0 where the health key of every settings class exists, else 1."""
    logging.basicConfig(handlers=[_arq_handler()])
    logger.setLevel(logging.INFO)
    answers = [asyncio.run(has_worker(read_settings(source))) for source in sources]
    return 0 if all(answers) else 1


def _use_log_dict(path: str) -> None:
    try:
        logging.config.dictConfig(import_path(path))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"--custom-log-dict {path}: {error}") from None


def configure_arq_logging(settings: Settings, *, verbose: bool = False) -> None:
    """arq's own line format, which dashboards and people grep; JSON where that is asked for."""
    if settings.log_format == "json":
        configure_logging(settings.log_level, "json")
    else:
        logging.basicConfig(level=settings.log_level, handlers=[_arq_handler()], force=True)
    # arq's lines tell how each job ended; the runtime's own would say it twice.
    logging.getLogger("worker_runtime.jobs").setLevel(logging.ERROR)
    if verbose or not os.environ.get("LOG_LEVEL"):
        logging.getLogger("arq").setLevel(logging.DEBUG if verbose else logging.INFO)


def _arq_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter("%(asctime)s: %(message)s", "%H:%M:%S"))
    return handler
