"""Unique jobs: which kept job already has the key that a new one asks for."""

from __future__ import annotations

from collections.abc import Callable

from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.uniqueness import UNFINISHED, Uniqueness

_SPARE_KEYS = 1_000


class UniqueKeys:
    """The newest job of each unique key, among those in the table; or the one of them that was last
    brought back. `is_returning` says of an ended job that it is going to run again."""

    def __init__(self, table: JobTable, is_returning: Callable[[Job], bool]) -> None:
        self._table = table
        self._is_returning = is_returning
        self._holders: dict[str, str] = {}

    def claim(self, key: str, job: Job) -> None:
        self._holders[key] = job.id
        if len(self._holders) > 2 * len(self._table.jobs) + _SPARE_KEYS:
            jobs = self._table.jobs
            self._holders = {k: i for k, i in self._holders.items() if i in jobs}

    def holder(self, wanted: Uniqueness, now: float) -> Job | None:
        """The job in memory that has the key and counts; None where there is none."""
        job = self._table.get(self._holders.get(wanted.key, ""))
        is_held = job is not None and (wanted.is_held_by(job, now) or self._is_returning(job))
        return job if is_held else None

    def other_holder(self, key: str, job: Job) -> Job | None:
        """The job in memory that stands in the way of `job`, which has ended, having the key again:
        one that has not ended."""
        other = self._table.get(self._holders.get(key, ""))
        if other is None or other is job:
            return None
        return other if other.state in UNFINISHED or self._is_returning(other) else None
