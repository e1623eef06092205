"""Stores on real files, jobs to put in them, and faults behind the connection."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition, with_ended_attempt
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.model.states import COMPLETED, FAILED, RUNNING, Reason
from worker_runtime.model.tasks.definition import task
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.stores.sqlite.file.schema import Connect, connect_default
from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task(on_crash="fail")
async def fragile(a: int) -> int:
    return a


@task(result_ttl_s=0.0)
async def fleeting(a: int) -> int:
    return a


@task(queue="mail", retry=Retry(max_attempts=2))
async def mail(to: str) -> str:
    return to


def registry(*functions: Callable[..., Any]) -> TaskRegistry:
    made = TaskRegistry(queue="default", timeout_s=None)
    made.add_all(functions or (add, fragile, fleeting, mail))
    return made


TASKS = registry()


class Jobs:
    """Makes jobs with places in line, as the intake does."""

    def __init__(self, after: int = 0) -> None:
        self.order = after

    def make(self, name: str = "add", *args: Any, job_id: str | None = None, **fields: Any) -> Job:
        self.order += 1
        definition = TASKS.find(name)
        bound, named = definition.signature.bind(args or (1,), None)
        return Job(
            job_id or f"job-{self.order}",
            definition,
            bound,
            named,
            fields.pop("queue", definition.queue),
            definition.priority,
            self.order,
            time.time(),
            **fields,
        )


def make_store(
    directory: Path,
    *,
    connect: Connect = connect_default,
    on_fatal: Callable[[str], None] | None = None,
    **settings: Any,
) -> SqliteStore:
    def fail(message: str) -> None:
        raise AssertionError(f"the store has failed: {message}")

    made = SqliteStoreSettings(path=str(directory / "jobs.db"), **settings)
    return SqliteStore(made, connect=connect, on_fatal=on_fatal or fail)


async def kept(store: SqliteStore, *jobs: Job) -> None:
    """Have the store accept `jobs`, one by one."""
    futures = [store.record_accepted([job]) for job in jobs]
    for future in futures:
        if future is not None:
            await future


async def started(store: SqliteStore, job: Job) -> None:
    job.state = RUNNING
    job.attempt += 1
    job.started_at = time.time()
    await store.record_started(job)


async def changed(store: SqliteStore, job: Job, transition: Transition) -> None:
    """Record a transition, wait until it may be shown, and show it."""
    shown = asyncio.get_running_loop().create_future()
    store.record_transition(job, transition, lambda: shown.set_result(None))
    await shown
    if transition.failure is not None and transition.state not in (COMPLETED, FAILED):
        activity = job.activity_made()
        activity.attempts = with_ended_attempt(activity.attempts, job, transition)
    job.state = transition.state
    job.attempt, job.crashes = transition.attempt, transition.crashes
    if transition.state in (COMPLETED, FAILED):
        job.ended_at, job.failure = transition.at, transition.failure


def completed(job: Job, value: Any = None) -> Transition:
    return Transition(COMPLETED, time.time(), value, attempt=job.attempt, crashes=job.crashes)


def failed(job: Job, text: str = "no") -> Transition:
    failure = Failure(Reason.ERROR, "ValueError", text)
    return Transition(FAILED, time.time(), None, failure, 0.0, job.attempt, job.crashes)


async def recovered(store: SqliteStore, tasks: TaskRegistry = TASKS) -> list[Job]:
    store.archive.tasks = tasks.find_or_park  # as `open` has them from a runtime
    return [job async for jobs in store.recover() for job in jobs]


def rows(store: SqliteStore, columns: str, order: str = "place") -> list[tuple[Any, ...]]:
    """What the file holds, read by a connection of the test's own."""
    connection = sqlite3.connect(store.path)
    try:
        return connection.execute(f"SELECT {columns} FROM worker_jobs ORDER BY {order}").fetchall()
    finally:
        connection.close()


class Faults:
    """A connection factory that fails or holds up what the store writes.

    error  raised by every write while it is set
    gate   every write waits until it is set (a threading.Event), if there is one
    """

    def __init__(self) -> None:
        self.error: int | None = None
        self.commits = 0
        self.gate: Any = None
        self.statements: list[str] = []

    def connect(self, path: str) -> sqlite3.Connection:
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
                faults.before(sql, self.in_transaction)
                return super().execute(sql, parameters)

        return sqlite3.connect(
            path, factory=Connection, isolation_level=None, check_same_thread=False
        )

    def before(self, sql: str, in_transaction: bool) -> None:
        verb = sql.split(None, 1)[0]
        if verb not in ("INSERT", "UPDATE", "DELETE", "COMMIT", "BEGIN"):
            return
        self.statements.append(verb)
        if verb == "BEGIN" or (in_transaction and verb != "COMMIT"):
            return
        if self.gate is not None:
            self.gate.wait(10)
        if self.error is not None:
            raise fault(self.error)
        self.commits += 1


def fault(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"injected error {code}")
    error.sqlite_errorcode = code
    return error


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]
