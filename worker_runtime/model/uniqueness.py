"""What makes a job unique: a key, and which other jobs of that key count."""

from __future__ import annotations

import msgspec

from worker_runtime.model.job import Job
from worker_runtime.model.states import COMPLETED, QUEUED, RUNNING, SCHEDULED, State

UNFINISHED = frozenset({SCHEDULED, QUEUED, RUNNING})


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
