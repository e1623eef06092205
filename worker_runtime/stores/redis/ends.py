"""How this process's attempts have ended, in the words of arq's health key."""

from __future__ import annotations

from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import COMPLETED, TERMINAL_STATES

_NEWEST_WEIGHT = 0.05


class EndCounts:
    """How the attempts of this process have ended, and how long the recent ones took (seconds)."""

    def __init__(self) -> None:
        self.completed = self.failed = self.retried = 0
        self.attempt_mean_s = 1.0

    def __str__(self) -> str:
        return f"j_complete={self.completed} j_failed={self.failed} j_retried={self.retried}"

    def count(self, job: Job, transition: Transition) -> None:
        if transition.state is COMPLETED:
            self.completed += 1
        elif transition.state in TERMINAL_STATES:
            self.failed += 1
        else:
            self.retried += 1
        if job.started_at is not None:
            taken_s = max(0.0, transition.at - job.started_at)
            self.attempt_mean_s += _NEWEST_WEIGHT * (taken_s - self.attempt_mean_s)
