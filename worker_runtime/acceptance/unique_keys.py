"""Unique jobs: which kept job already has the key that a new one asks for."""

from __future__ import annotations

import msgspec

from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.states import COMPLETED, QUEUED, RUNNING, SCHEDULED, State

UNFINISHED = frozenset({SCHEDULED, QUEUED, RUNNING})
_SPARE_KEYS = 1_000


class Uniqueness(msgspec.Struct, frozen=True):
    """What makes a job unique: no other with this `key` that is in one of `states` and, with a
    period, was accepted less than `for_s` seconds ago."""

    key: str
    for_s: float | None
    states: frozenset[State]

    @classmethod
    def of(cls, key: str, for_s: float | None, states: frozenset[State] | None) -> Uniqueness:
        """With a period a completed job counts too, unless `states` says otherwise."""
        if states is None:
            states = UNFINISHED if for_s is None else UNFINISHED | {COMPLETED}
        return cls(key, for_s, states)

    def is_held_by(self, job: Job, now: float) -> bool:
        is_recent = self.for_s is None or job.created_at + self.for_s > now
        return is_recent and job.state in self.states

    @property
    def outlives_jobs(self) -> bool:
        """Whether a job can hold the key after it has ended."""
        return not self.states <= UNFINISHED


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
