"""Looking at jobs: one by id, pages of them, and what their attempts came to."""

from __future__ import annotations

from worker_runtime.engine.table import JobTable
from worker_runtime.errors import InvalidJob, UnknownJob
from worker_runtime.model.bounded import clean
from worker_runtime.model.filter import JobFilter, place_after
from worker_runtime.model.job import Job
from worker_runtime.model.snapshot import JobPage, describe
from worker_runtime.stores.boundary import Store

PAGE_LIMIT_MAX = 1000


class Inspection:
    """Finds jobs in memory and in the store: an ended job may be only there."""

    def __init__(self, table: JobTable, store: Store) -> None:
        self._table = table
        self._store = store

    async def job(self, job_id: str) -> Job:
        """Raises UnknownJob."""
        job = self._table.get(job_id)
        if job is None:
            stored = await self._store.find(clean(job_id))
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
        below = place_after(cursor)
        jobs, next_below = await self._store.page(wanted, self._table, limit=limit, below=below)
        return jobs, None if next_below is None else str(next_below)
