"""What an earlier life left unfinished: running jobs are counted as crashed, the rest come back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ConfigurationError, InvalidArguments, StoreUnavailable
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import FAILED, QUEUED, Reason
from worker_runtime.model.tasks.crash_rule import reason_to_fail
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.stores.sqlite.batch import Batch
from worker_runtime.stores.sqlite.file.reader import Reader
from worker_runtime.stores.sqlite.file.schema import refusal
from worker_runtime.stores.sqlite.rows import ALL, Columns, changed_columns, decode_job

Tasks = Callable[[str], TaskDefinition]

BATCH_JOBS = 2000

_COLUMNS = ", ".join(ALL)
_RUNNING = f"SELECT {_COLUMNS} FROM worker_jobs WHERE state = 'running' AND ended_at IS NULL"
_WAITING = (
    f"SELECT {_COLUMNS} FROM worker_jobs WHERE place > ? AND ended_at IS NULL "
    f"ORDER BY place LIMIT {BATCH_JOBS}"
)


class Recovery:
    """Decides about the jobs in the file before anything else runs.

    Guarantees: a crash is counted once, however often recovery itself is killed, because all of
    them are committed together before the first job is handed out.
    """

    def __init__(
        self,
        reader: Reader,
        commit: Callable[[Batch], Any],
        tasks: Tasks,
        clock: Clock,
        *,
        path: str,
        crashes_max: int,
    ) -> None:
        self._reader = reader
        self._commit = commit
        self._tasks = tasks
        self._wall = clock.wall
        self._path = path
        self._crashes_max = crashes_max

    async def jobs(self) -> AsyncIterator[Sequence[Job]]:
        await self._count_crashes()
        # The next rows are read while the caller takes up these.
        reading = asyncio.ensure_future(self._rows(_WAITING, (0,)))
        try:
            while rows := await reading:
                reading = asyncio.ensure_future(self._rows(_WAITING, (rows[-1][0],)))
                jobs = await self._decoded(rows)
                if jobs:
                    yield jobs
        finally:
            reading.cancel()

    async def _count_crashes(self) -> None:
        batch = Batch()
        for row in await self._rows(_RUNNING):
            job = self._decode(row, checked=False)
            self._change(batch, job, after_crash(job, self._crashes_max, self._wall()))
        if len(batch):
            await self._commit(batch)

    async def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Columns]:
        """Raises ConfigurationError where the file turns out to be damaged only here."""
        try:
            return await self._reader.rows(sql, parameters)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.Error):
                raise refusal(self._path, error.__cause__) from error
            raise

    async def _decoded(self, rows: Sequence[Columns]) -> list[Job]:
        jobs = []
        unfit = Batch()
        for row in rows:
            try:
                jobs.append(self._decode(row, checked=True))
            except InvalidArguments as error:
                job = self._decode(row, checked=False)
                text = f"the stored arguments no longer fit the task: {error}"
                failure = Failure(Reason.ERROR, "InvalidArguments", text)
                self._change(unfit, job, _failed(job, failure, self._wall(), job.crashes))
        if len(unfit):
            await self._commit(unfit)
        return jobs

    def _decode(self, row: Columns, *, checked: bool) -> Job:
        try:
            return decode_job(row, self._tasks, checked=checked)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"store: job {row[1]!r} in {self._path} cannot be read ({error}); "
                "restore a backup or delete that row"
            ) from error

    def _change(self, batch: Batch, job: Job, transition: Transition) -> None:
        batch.change(job.order, changed_columns(job, transition))
        if transition.state is FAILED:
            batch.ended[job.queue, True] += 1


def after_crash(job: Job, crashes_max: int, now: float) -> Transition:
    """What becomes of `job`, which was running when its process died. `now` is Unix seconds."""
    crashes = job.crashes + 1
    reason = reason_to_fail(job.task.on_crash, crashes, crashes_max)
    text = f"the worker process died while attempt {job.attempt} ran"
    failure = Failure(reason or Reason.CRASHED, "ProcessDied", text)
    if reason is not None:
        return _failed(job, failure, now, crashes)
    return Transition(QUEUED, now, None, failure, job.due_at, job.attempt, crashes)


def _failed(job: Job, failure: Failure, now: float, crashes: int) -> Transition:
    return Transition(FAILED, now, None, failure, 0.0, job.attempt, crashes)
