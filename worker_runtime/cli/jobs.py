"""`worker-runtime jobs`: look at jobs and act on dead letters, through a running worker's API or
straight in a store's file."""

from __future__ import annotations

import json
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import click

from worker_runtime.cli.job_file import delete_in, job_of, page_of, path_of, retry_in
from worker_runtime.cli.worker import (
    EXIT_REFUSED,
    EXIT_WRONG_USE,
    Document,
    end,
    json_option,
    plain,
    print_json,
    url_option,
    worker_at,
)
from worker_runtime.errors import (
    ConfigurationError,
    InvalidJob,
    InvalidTransition,
    StoreUnavailable,
    UnknownJob,
)
from worker_runtime.model.bounded import set_in
from worker_runtime.model.filter import JobFilter, place_after, states_of
from worker_runtime.model.states import State

_STATES = click.Choice([state.value for state in State])
_ENDED = click.Choice(["completed", "failed", "cancelled"])


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Look into this file instead of asking a worker, for example sqlite:///jobs.db."
    return click.option("--store", "store_url", metavar="URL", help=text)(command)


def _file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Change this file, which no worker may have open, for example sqlite:///jobs.db."
    return click.option("--store", "store_url", metavar="URL", help=text)(command)


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--task", help="Only jobs of this task.")(command)
    return click.option("--queue", help="Only jobs in this queue.")(command)


@click.group()
def jobs() -> None:
    """List, show, retry, cancel and delete jobs.

    Exit codes: 0 done, 1 refused or not found, 2 wrong use, 3 no worker answers.
    """


@jobs.command("list")
@click.option("--state", type=_STATES, help="Only jobs in this state.")
@_filter_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", help="Go on after an earlier list.")
@url_option
@_store_option
@json_option
def list_command(
    state: str | None,
    queue: str | None,
    task: str | None,
    limit: int,
    cursor: str | None,
    url: str | None,
    store_url: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    if store_url is None:
        query = {"state": state, "queue": queue, "task": task, "limit": limit, "cursor": cursor}
        page = worker_at(url).ask("GET", "/v1/jobs", query)
    else:
        try:
            below = place_after(cursor)
        except InvalidJob as error:
            end(f"--{error}", EXIT_WRONG_USE)
        wanted = JobFilter(states_of(None if state is None else State(state)), queue, task)
        page = _from_file(store_url, url, lambda path: page_of(path, wanted, limit, below))
    if as_json:
        print_json(page)
        return
    _print_table(page["jobs"])
    if page["cursor"]:
        click.echo(f"more with --cursor {page['cursor']}")


@jobs.command("show")
@click.argument("job_id")
@url_option
@_store_option
@json_option
def show_command(job_id: str, url: str | None, store_url: str | None, as_json: bool) -> None:
    """Show a job with its attempts."""
    if store_url is None:
        job = worker_at(url).ask("GET", f"/v1/jobs/{_quoted(job_id)}")
    else:
        job = _from_file(store_url, url, lambda path: job_of(path, job_id))
    if as_json:
        print_json(job)
    else:
        _print_job(job)


@jobs.command("retry")
@click.argument("job_ids", nargs=-1)
@click.option("--all", "all_jobs", is_flag=True, help="All that match, up to 1,000.")
@click.option("--state", type=click.Choice(["failed", "cancelled"]), help="With --all.")
@_filter_options
@url_option
@_file_option
def retry_command(
    job_ids: Sequence[str],
    all_jobs: bool,
    state: str | None,
    queue: str | None,
    task: str | None,
    url: str | None,
    store_url: str | None,
) -> None:
    """Run failed or cancelled jobs again; with --store, in the next life of its worker."""
    _check_choice(job_ids, all_jobs, state, queue, task)
    if store_url is not None:
        wanted = JobFilter(states_of(State(state or "failed")), queue, task)
        _print_bulk(
            "queued again", _from_file(store_url, url, lambda path: retry_in(path, job_ids, wanted))
        )
        return
    worker = worker_at(url)
    for job_id in job_ids:
        worker.ask("POST", f"/v1/jobs/{_quoted(job_id)}/retry")
        click.echo(f"queued again: {job_id}")
    if all_jobs:
        query = {"state": state, "queue": queue, "task": task}
        _print_bulk("queued again", worker.ask("POST", "/v1/jobs/retry", query))


@jobs.command("cancel")
@click.argument("job_ids", nargs=-1, required=True)
@url_option
def cancel_command(job_ids: Sequence[str], url: str | None) -> None:
    """Cancel jobs that have not ended; running ones are told to stop."""
    worker = worker_at(url)
    for job_id in job_ids:
        job = worker.ask("DELETE", f"/v1/jobs/{_quoted(job_id)}")
        done = "cancelled" if job["state"] == "cancelled" else "told to stop"
        click.echo(f"{done}: {job_id}")


@jobs.command("delete")
@click.argument("job_ids", nargs=-1)
@click.option("--all", "all_jobs", is_flag=True, help="All that match, up to 1,000.")
@click.option("--state", type=_ENDED, help="With --all, which needs it.")
@_filter_options
@url_option
@_file_option
def delete_command(
    job_ids: Sequence[str],
    all_jobs: bool,
    state: str | None,
    queue: str | None,
    task: str | None,
    url: str | None,
    store_url: str | None,
) -> None:
    """Forget jobs that have ended."""
    _check_choice(job_ids, all_jobs, state, queue, task)
    if all_jobs and state is None:
        raise click.UsageError("--all needs --state: completed, failed or cancelled")
    if store_url is not None:
        wanted = JobFilter(states_of(None if state is None else State(state)), queue, task)
        _print_bulk(
            "deleted", _from_file(store_url, url, lambda path: delete_in(path, job_ids, wanted))
        )
        return
    worker = worker_at(url)
    for job_id in job_ids:
        worker.ask("DELETE", f"/v1/jobs/{_quoted(job_id)}", {"purge": "true"})
        click.echo(f"deleted: {job_id}")
    if all_jobs:
        query = {"state": state, "queue": queue, "task": task}
        _print_bulk("deleted", worker.ask("DELETE", "/v1/jobs", query))


def _check_choice(job_ids: Sequence[str], all_jobs: bool, *filters: str | None) -> None:
    if bool(job_ids) == all_jobs:
        raise click.UsageError("give the ids of jobs, or --all")
    if not all_jobs and any(filters):
        raise click.UsageError("--state, --queue and --task go with --all")


def _quoted(job_id: str) -> str:
    return urllib.parse.quote(job_id, safe="")


def _from_file(store_url: str, url: str | None, act: Callable[[str], Document]) -> Document:
    """What `act` makes of the path that `store_url` names. Ends the process with what is wrong."""
    if url is not None:
        raise click.UsageError("--url and --store exclude each other")
    try:
        return act(path_of(store_url))
    except (UnknownJob, InvalidTransition) as error:
        end(str(error), EXIT_REFUSED)
    except (ConfigurationError, StoreUnavailable) as error:
        end(str(error), EXIT_WRONG_USE)


# Printing


def _print_bulk(done: str, result: Document) -> None:
    for job_id in result["jobs"]:
        click.echo(f"{done}: {job_id}")
    click.echo(f"{len(result['jobs'])} {done}{', others are left' if result['has_more'] else ''}")


def _print_table(found: Sequence[Document]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in ("id", "task", "queue", "state", "tries", "created", "error"):
        table.add_column(heading, no_wrap=heading == "id", overflow="fold")
    for job in found:
        cells = [job["id"], job["task"], job["queue"], job["state"], str(job["attempt"])]
        table.add_row(*map(plain, [*cells, _time(job["created_at"]), _error(job)]))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def _print_job(job: Document) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    facts = Table.grid(padding=(0, 2))
    for name, value in job.items():
        if value is not None and name != "attempts":
            text = _time(value) if name.endswith("_at") else value
            shown = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
            facts.add_row(name, plain(shown))
    console.print(facts)
    for attempt in job["attempts"]:
        span = f"{_time(attempt['started_at'])} to {_time(attempt['ended_at']) or 'now'}"
        click.echo(f"\nattempt {attempt['number']}: {span}")
        for line in (_error(attempt), attempt["traceback"]):
            if line:
                click.echo(set_in(line.rstrip(), ""))


def _error(record: Document) -> str:
    if record["error"] is None:
        return ""
    words = [record["reason"], record["error_type"], record["error"]]
    return ": ".join(word for word in words if word)


def _time(text: str | None) -> str:
    return "" if text is None else text[:19].replace("T", " ") + "Z"
