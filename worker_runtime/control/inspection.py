"""Looking at jobs: one by id, pages of them, and what their attempts came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from worker_runtime.engine.table import JobTable
from worker_runtime.errors import InvalidJob, UnknownJob
from worker_runtime.model.job import (
    TERMINAL_STATES,
    Job,
    JobInfo,
    State,
    describe,
)
from worker_runtime.model.snapshot import AttemptInfo, attempts_of
from worker_runtime.stores import Archive, Store

if TYPE_CHECKING:
    from worker_runtime.sharing.queues import SharedQueues

PAGE_LIMIT_MAX = 1000


class JobPage(msgspec.Struct, frozen=True):
    """Jobs, newest first. Pass `cursor` to get those after them; None: there are no more."""

    jobs: list[JobInfo]
    cursor: str | None


class JobDetail(JobInfo, frozen=True):
    """A job with its attempts, oldest first: the newest 20 that were tried again, and the last."""

    attempts: tuple[AttemptInfo, ...] = ()


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are meant: those in one of `states` (empty: in any), of `queue`, of `task`."""

    states: frozenset[State] = frozenset()
    queue: str | None = None
    task: str | None = None

    def matches(self, job: Job) -> bool:
        return (
            (not self.states or job.state in self.states)
            and (self.queue is None or job.queue == self.queue)
            and (self.task is None or job.task.name == self.task)
        )


def states_of(
    given: State | Iterable[State] | None, allowed: frozenset[State] = frozenset(State)
) -> frozenset[State]:
    """The states that a caller named; empty for None. Raises InvalidJob for one not allowed."""
    if given is None:
        return frozenset()
    states = frozenset({given} if isinstance(given, str) else given)
    if not states or not states <= allowed:
        shown = ", ".join(sorted(map(str, states)))[:100] or "none"
        raise InvalidJob(f"state must be one of {', '.join(sorted(allowed))}, not {shown}")
    return states


class Inspection:
    """Finds jobs in memory and in the store, if there is one: an ended job may be only there."""

    def __init__(
        self,
        table: JobTable,
        store: Store | None,
        archive: Archive | None,
        shared: SharedQueues | None,
    ) -> None:
        self._table = table
        self._store = store
        self._archive = archive
        self._shared = shared

    async def job(self, job_id: str) -> Job:
        """Raises UnknownJob."""
        job = self._table.get(job_id)
        if job is None and self._store is not None:
            stored = await self._store.find(job_id)
            job = self._table.get(job_id) or stored  # it may have been brought back meanwhile
        if job is None:
            raise UnknownJob(f"no job {job_id[:128]!r} is kept")
        return job

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> JobPage:
        """See `Runtime.list_jobs`."""
        jobs, cursor = await self.jobs(wanted, limit=limit, cursor=cursor)
        return JobPage([describe(job) for job in jobs], cursor)

    async def jobs(
        self, wanted: JobFilter, *, limit: int, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Up to `limit` jobs, newest first, and the cursor for those after them. Raises InvalidJob,
        StoreUnavailable."""
        if not 1 <= limit <= PAGE_LIMIT_MAX:
            raise InvalidJob(f"limit must be between 1 and {PAGE_LIMIT_MAX}, not {limit}")
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
            raise InvalidJob(f"cursor {cursor[:40]!r} is not one that a list gave")
        if self._shared is not None:
            below = None if cursor is None else int(cursor)
            return await self._shared.page(wanted.matches, limit=limit, below=below)
        here = self._table.page(wanted.matches, limit=limit, after=cursor)
        if self._archive is None:
            return here.jobs, here.cursor
        found = {job.order: job for job in here.jobs}
        found.update(await self._stored(wanted, here.jobs, limit, cursor))
        jobs = [found[order] for order in sorted(found, reverse=True)]
        has_more = len(jobs) > limit or here.cursor is not None
        return jobs[:limit], str(jobs[:limit][-1].order) if has_more else None

    async def _stored(
        self, wanted: JobFilter, here: Sequence[Job], limit: int, cursor: str | None
    ) -> dict[int, Job]:
        """Up to `limit` + 1 ended jobs of the store that memory does not show already. One that is
        in memory too counts as it is there: the file may be a commit behind."""
        assert self._archive is not None
        states = wanted.states & TERMINAL_STATES if wanted.states else TERMINAL_STATES
        below = None if cursor is None else int(cursor)
        shown = {job.id for job in here}
        found: dict[int, Job] = {}
        while states and len(found) <= limit:
            rows = await self._archive.page(
                states=sorted(states),
                queue=wanted.queue,
                task=wanted.task,
                limit=limit + 1,
                below=below,
            )
            for stored in rows:
                job = self._table.jobs.get(stored.id, stored)
                if job.id not in shown and wanted.matches(job):
                    found[job.order] = job
            if len(rows) <= limit:
                break
            below = rows[-1].order
        return found


def detail_of(job: Job) -> JobDetail:
    """The public snapshot of `job` with its attempts."""
    return JobDetail(**msgspec.structs.asdict(describe(job)), attempts=attempts_of(job))
