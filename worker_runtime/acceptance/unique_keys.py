"""Unique jobs: which kept job already has the key that a new one asks for."""

from __future__ import annotations

from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.uniqueness import Uniqueness

_SPARE_KEYS = 1_000


class UniqueKeys:
    """The newest job of each unique key, among those in the table."""

    def __init__(self, table: JobTable) -> None:
        self._table = table
        self._holders: dict[str, str] = {}

    def claim(self, key: str, job: Job) -> None:
        self._holders[key] = job.id
        if len(self._holders) > 2 * len(self._table.jobs) + _SPARE_KEYS:
            jobs = self._table.jobs
            self._holders = {k: i for k, i in self._holders.items() if i in jobs}

    def holder(self, wanted: Uniqueness, now: float) -> Job | None:
        """The job in memory that has the key and counts; None where there is none."""
        job = self._table.get(self._holders.get(wanted.key, ""))
        return job if job is not None and wanted.is_held_by(job, now) else None
