"""The SQLite store: an embedded file that keeps what was accepted through `kill -9`.

`sqlite:///jobs.db` is a path relative to the working directory, `sqlite:////var/jobs.db` an
absolute one; `?ack=durable|os|memory` says when a job is acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, get_args
from urllib.parse import parse_qsl, unquote

import msgspec

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.bounded import masked
from worker_runtime.model.figures import StoreStatistics
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import FAILED, TERMINAL_STATES
from worker_runtime.stores.boundary import LOOKS_ONLY, Feature, Here, Host, Recorder
from worker_runtime.stores.local import LocalStore
from worker_runtime.stores.sqlite.archive import Archive
from worker_runtime.stores.sqlite.batch import Batch, Row
from worker_runtime.stores.sqlite.file.guard import FileGuard
from worker_runtime.stores.sqlite.file.reader import Reader
from worker_runtime.stores.sqlite.file.retention import Retention
from worker_runtime.stores.sqlite.file.schema import Connect, connect_default, open_writer, refusal
from worker_runtime.stores.sqlite.file.statements import write
from worker_runtime.stores.sqlite.file.writer import exit_now
from worker_runtime.stores.sqlite.journal import Journal
from worker_runtime.stores.sqlite.recovery import Recovery
from worker_runtime.stores.sqlite.rows import (
    change_row,
    changed_columns,
    encode_payload,
    new_row,
    started_columns,
)
from worker_runtime.stores.sqlite.transaction import StoreTransaction, open_transaction

Ack = Literal["durable", "os", "memory"]

_CLOSE_WITHIN_S = 5.0


class SqliteStoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a store keeps jobs.

    ack  when a job is acknowledged: `durable` after the disk has it (fsync), `os` after the commit
         (a power cut may lose the last ones), `memory` before it (so may a crash)
    kept_count_max, kept_ttl_s   ended jobs kept in each queue, and for how long; failed ones have
         the same number to themselves
    """

    path: str
    ack: Ack = "durable"
    payload_bytes_max: int = 1 << 20
    crashes_max: int = 3
    kept_count_max: int = 10_000
    kept_ttl_s: float = 86_400.0


def parse_url(url: str) -> tuple[str, Ack]:
    """The path and the ack mode in `url`. Raises ConfigurationError."""
    shown = masked(url)
    rest, _, query = url.removeprefix("sqlite://").partition("?")
    path = unquote(rest.removeprefix("/"))
    if not url.startswith("sqlite:///") or not path or path == ":memory:" or "\0" in path:
        raise ConfigurationError(
            f"store={shown!r}: must name a file, sqlite:///relative/path or sqlite:////absolute/path"
        )
    ack: Ack = "durable"
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "ack":
            raise ConfigurationError(f"store={shown!r}: unknown option {name!r}; allowed: ack")
        if value not in get_args(Ack):
            raise ConfigurationError(
                f"store={shown!r}: ack must be one of {', '.join(get_args(Ack))}, not {value!r}"
            )
        ack = value  # type: ignore[assignment]
    return path, ack


class SqliteStore(LocalStore):
    """Keeps jobs in one file.

    connect   makes connections to the path; tests put faults behind it
    on_fatal  called on the writer's thread when the file has failed; must not return in earnest
    """

    kind = "sqlite"
    lacks: Mapping[Feature, str] = {}
    outlives_process = True
    must_encode_results = True
    last_order = 0

    def __init__(
        self,
        settings: SqliteStoreSettings,
        *,
        connect: Connect = connect_default,
        on_fatal: Callable[[str], None] = exit_now,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.path = os.path.realpath(settings.path)
        self._guard = FileGuard(self.path)
        self._connect = connect
        self._retention = Retention(count_max=settings.kept_count_max, ttl_s=settings.kept_ttl_s)
        self._journal = Journal(
            self._open_writer,
            retention=self._retention,
            guard=self._guard,
            on_fatal=on_fatal,
        )
        self._reader = Reader(self.path, connect)
        self.archive = Archive(self._reader, self._journal.call, self._retention)
        self._is_open = False

    # Life

    @property
    def recorder(self) -> Recorder:
        return self

    async def open(self, host: Host = LOOKS_ONLY) -> None:
        self._clock = self.archive.clock = host.clock
        self.archive.tasks = host.find_task
        self._guard.acquire()
        try:
            await self._journal.open(host.clock)
            self._reader.open()
            rows = await self._reader.rows("SELECT max(place) FROM worker_jobs")
        except BaseException as error:
            self._guard.release()
            if isinstance(error, sqlite3.Error):  # damaged where only counting its rows saw it
                raise refusal(self.path, error) from error
            raise
        self.last_order = rows[0][0] or 0
        self._is_open = True

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._reader.close()  # before the writer, whose last checkpoint needs the file alone
        await self._journal.close(_CLOSE_WITHIN_S)
        self._guard.release()

    def recover(self) -> AsyncIterator[Sequence[Job]]:
        recovery = Recovery(
            self._reader,
            self._commit,
            self.archive.tasks,
            self._clock,
            path=self.path,
            crashes_max=self.settings.crashes_max,
        )
        return recovery.jobs()

    # Record

    def record_accepted(self, jobs: Sequence[Job]) -> asyncio.Future[None] | None:
        rows = [self._new_row(job) for job in jobs]
        return self._journal.accept(rows, acknowledge_now=self.settings.ack == "memory")

    async def acknowledged(self, job: Job) -> None:
        acceptance = self._journal.acceptance_of(job.order)
        if acceptance is not None:
            await acceptance

    def record_started(self, job: Job) -> asyncio.Future[None]:
        return self._journal.start(job.order, started_columns(job))

    def record_transition(self, job: Job, transition: Transition, then: Callable[[], None]) -> None:
        columns = changed_columns(job, transition)
        if job.is_ended:  # revived; the row may have been pruned since
            payload = encode_payload(job, self.settings.payload_bytes_max)
            row = new_row(job, payload)
            change_row(row, columns)
            self._journal.revive(row, then)
            return
        if transition.state in TERMINAL_STATES:
            self._journal.count_ended(job.queue, transition.state is FAILED)
        self._journal.change(job.order, columns, then)

    @asynccontextmanager
    async def transaction(self, timeout_s: float = 5.0) -> AsyncIterator[StoreTransaction]:
        """A transaction for the application's own tables in the same file; one at a time.

        Other jobs wait for its end, at most `timeout_s` seconds, before they are acknowledged.
        Raises what `open_transaction` raises.
        """
        async with open_transaction(
            self._journal.call, self._new_row, self._clock, timeout_s
        ) as session:
            yield session

    # Look

    async def find(self, job_id: str) -> Job | None:
        return await self.archive.find(job_id)

    async def page(
        self, wanted: JobFilter, here: Here, *, limit: int, below: int | None
    ) -> tuple[list[Job], int | None]:
        """What is here, and the ended jobs that are only in the file."""
        listed = here.listed(wanted.matches, limit=limit + 1, below=below)
        found = {job.order: job for job in listed}
        found.update(await self._only_in_file(wanted, here, listed, limit, below))
        jobs = [found[order] for order in sorted(found, reverse=True)]
        return jobs[:limit], jobs[limit - 1].order if len(jobs) > limit else None

    async def _only_in_file(
        self, wanted: JobFilter, here: Here, listed: Sequence[Job], limit: int, below: int | None
    ) -> dict[int, Job]:
        """Up to `limit` + 1 ended jobs that `listed` does not show already. One that is in memory
        too counts as it is there: the file may be a commit behind."""
        states = wanted.states & TERMINAL_STATES if wanted.states else TERMINAL_STATES
        shown = {job.id for job in listed}
        found: dict[int, Job] = {}
        while states and len(found) <= limit:
            rows = await self.archive.page(
                states=sorted(states),
                queue=wanted.queue,
                task=wanted.task,
                limit=limit + 1,
                below=below,
            )
            for stored in rows:
                job = here.jobs.get(stored.id, stored)
                if job.id not in shown and wanted.matches(job):
                    found[job.order] = job
            if len(rows) <= limit:
                break
            below = rows[-1].order
        return found

    async def ended(self, task: str, *, limit: int, below: int | None) -> list[Job]:
        return await self.archive.page(
            states=sorted(TERMINAL_STATES), task=task, limit=limit, below=below
        )

    async def delete(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            await self.archive.delete(job_ids)

    async def load_note(self, key: str) -> str | None:
        rows = await self._reader.rows("SELECT text FROM worker_notes WHERE key = ?", (key,))
        return None if not rows else str(rows[0][0])

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        def work(connection: sqlite3.Connection) -> None:
            now = self._clock.wall()
            connection.execute("DELETE FROM worker_notes WHERE keep_until < ?", (now,))
            connection.execute("REPLACE INTO worker_notes VALUES (?, ?, ?)", (key, text, until))

        await self._journal.call(work)

    def statistics(self) -> StoreStatistics:
        writer = self._journal.writer
        return StoreStatistics(
            kind=self.kind,
            unavailable=self._journal.unavailable,
            results_held_back=self._journal.results_held_back,
            last_commit_s=writer.last_commit_s or None,
            commits=writer.commits,
            rows=writer.rows,
            checkpoints=writer.checkpoints,
            file_bytes=_size(self.path),
            log_bytes=_size(self.path + "-wal"),
        )

    # Inside

    def _open_writer(self) -> sqlite3.Connection:
        is_durable = self.settings.ack == "durable"
        connection = open_writer(self.path, is_durable=is_durable, connect=self._connect)
        try:
            self._guard.remember()
        except BaseException:
            connection.close()
            raise
        return connection

    def _new_row(self, job: Job) -> Row:
        return new_row(job, encode_payload(job, self.settings.payload_bytes_max))

    async def _commit(self, batch: Batch) -> None:
        """Commit a batch that is not part of the running traffic."""

        def work(connection: sqlite3.Connection) -> None:
            write(connection, batch)
            self._retention.committed(batch)

        await self._journal.call(work)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
