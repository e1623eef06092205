"""Jobs that exist exactly when the application's own rows do."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from worker_runtime.acceptance.call import Call, TaskRef
from worker_runtime.acceptance.enqueuer import Enqueuer
from worker_runtime.acceptance.handle import JobControl, JobHandle
from worker_runtime.acceptance.intake import PLAIN, Intake
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.errors import InvalidJob
from worker_runtime.model.job import Job
from worker_runtime.stores.boundary import New, Session, Store


class Transaction(Enqueuer):
    """SQL on the application's tables in the store's file and new jobs, committed together when the
    block ends, rolled back when it raises.

    While it is open no other change is committed: do not wait for anything slow in it, and never
    for a job. The jobs become visible, and run, after the commit.
    """

    def __init__(
        self,
        runtime: JobControl,
        intake: Intake,
        store: Store,
        session: Session,
    ) -> None:
        self._runtime = runtime
        self._intake = intake
        self._store = store
        self._session = session
        self._added: dict[str, Job] = {}

    async def execute(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. Raises sqlite3.Error; the block may go on.

        Refused: transaction control but savepoints, PRAGMA, ATTACH, writes to the store's tables.
        """
        return await self._session.execute(sql, parameters)

    async def executemany(self, sql: str, rows: Iterable[Any]) -> int:
        """Run one statement for each of `rows`; returns how many rows it changed."""
        return await self._session.executemany(sql, rows)

    async def enqueue_with(
        self,
        options: EnqueueOptions,
        task: TaskRef,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> JobHandle[Any]:
        """`enqueue` with the options of a job, for example `runtime.options(...).now()`."""
        if options.unique is not None:
            raise InvalidJob("unique_key does not work in a transaction; give a job_id")
        job = self._intake.make(task, args, kwargs or {}, options)
        known = self._added.get(job.id)
        if known is None:
            new = New(job, is_named=options.job_id is not None)
            known = await self._store.known(new, self._intake)
        if known is not None:
            self._intake.check_same(known, job)
            return JobHandle(known, self._runtime, is_new=False)
        self._intake.check_room(job)
        admit = functools.partial(self._intake.admit, job, options.parents, is_stored=True)
        await self._session.add([job], admit)
        self._added[job.id] = job
        return JobHandle(job, self._runtime)

    async def _enqueue(
        self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> JobHandle[Any]:
        return await self.enqueue_with(PLAIN, task, args, kwargs)

    async def _enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        return [await self.enqueue_with(PLAIN, c.task, c.args, c.kwargs) for c in calls]
