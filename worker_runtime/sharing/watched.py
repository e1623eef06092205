"""Jobs whose record somebody here holds while they wait, run or end in another process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.stores.redis.location import end_tasks
from worker_runtime.stores.redis.script import REDIS_ERRORS
from worker_runtime.stores.redis.store import RedisStore

logger = logging.getLogger("worker_runtime.redis")

_POLL_FIRST_S = 0.005
_POLL_MAX_S = 0.5
_REMEMBERED_MAX = 10_000


class WatchedJobs:
    """Knows the records of jobs that were enqueued here or are waited for here.

    Guarantees: a job that is claimed here is run on the record that its caller holds; one that
    ends elsewhere ends on that record too, and in the table, so that who waits for it is told.
    """

    def __init__(self, store: RedisStore, table: JobTable) -> None:
        self._store = store
        self._table = table
        self._watched: dict[str, list[Job]] = {}  # whoever asks the store gets a record of his own
        self._enqueued: dict[str, Job] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def stop(self) -> None:
        """Look no more. Who waits for a job that runs elsewhere, or later, is told so."""
        self._is_stopped = True
        if self._watcher is not None:
            await end_tasks([self._watcher])
        for job_id, records in self._watched.items():
            for job in records:
                if self._table.jobs.get(job_id) is not job:  # else its end may be on its way
                    self._table.release(job)

    def remember(self, job: Job) -> None:
        """A job that was enqueued here: if it is claimed here too, its record is this one."""
        self._enqueued[job.id] = job
        if len(self._enqueued) > _REMEMBERED_MAX:
            del self._enqueued[next(iter(self._enqueued))]

    def known(self, job: Job) -> Job:
        """The record that somebody here holds of this job, brought up to date; else `job`."""
        waited_for = next(iter(self._watched.get(job.id, ())), None)
        held = self._enqueued.pop(job.id, None) or waited_for
        if held is None or held.is_ended:
            return job
        held.args, held.kwargs, held.accepted = job.args, job.kwargs, job.accepted
        held.task, held.attempt, held.crashes = job.task, job.attempt, job.crashes
        held.priority, held.due_at = job.priority, job.due_at
        return held

    def watch(self, job: Job) -> None:
        """Look for the end of a job that somebody here waits for."""
        if self._is_stopped:
            self._table.release(job)
            return
        records = self._watched.setdefault(job.id, [])
        if job not in records:
            records.append(job)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(
                self._watch(), name="redis-result-watcher"
            )

    def put_back(self, job: Job) -> None:
        """A job that was here waits in the store again, for whoever is free first."""
        self._table.forget(job)
        if job.waiters:
            self.watch(job)

    async def _watch(self) -> None:
        poll_s = _POLL_FIRST_S
        missing: dict[str, int] = {}
        while self._watched:
            self._drop_unwaited()
            waited = [job_id for job_id in self._watched if job_id not in self._table.jobs]
            try:
                seen = await self._look(waited, missing) if waited else False
            except REDIS_ERRORS as error:
                logger.warning("results cannot be looked for: %s", error)
                seen = False
            poll_s = _POLL_FIRST_S if seen else min(_POLL_MAX_S, poll_s * 1.5)
            await asyncio.sleep(poll_s)

    def _drop_unwaited(self) -> None:
        for job_id, records in list(self._watched.items()):
            waited = [job for job in records if job.waiters and not job.is_ended]
            if waited:
                self._watched[job_id] = waited
            else:
                del self._watched[job_id]

    async def _look(self, job_ids: Sequence[str], missing: dict[str, int]) -> bool:
        """Whether one of these jobs has ended. `missing` counts the looks that found nothing of a
        job, of which it takes two: see `Lookup.results`."""
        lookup = self._store.lookup
        seen = False
        for job_id, (result, is_kept) in zip(job_ids, await lookup.results(job_ids), strict=True):
            if job_id not in self._watched or job_id in self._table.jobs:
                continue
            if result is None and (is_kept or missing.get(job_id, 0) < 1):
                missing[job_id] = 0 if is_kept else missing.get(job_id, 0) + 1
                continue
            missing.pop(job_id, None)
            for job in self._watched.pop(job_id):
                if not job.is_ended:
                    lookup.end(job, result)
                    self._table.jobs[job_id] = job
                    self._table.retire(job, None)
            seen = True
        return seen
