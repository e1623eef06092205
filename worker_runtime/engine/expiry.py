"""Ends waiting jobs whose time to begin has passed: on time, and wherever they wait."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime

from worker_runtime.clock.source import Clock
from worker_runtime.engine.finisher import Finisher
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome, OutcomeKind
from worker_runtime.model.states import QUEUED, SCHEDULED, Reason

# The wall clock may be set while the timer sleeps; looking again bounds how late a job expires.
_TIMER_MAX_S = 30.0
_ENDED_PER_TURN = 200
_COMPACT_AT_LEAST = 64


class Expiry:
    """Knows the waiting jobs that have an `expires_at`, and has one timer for all of them.

    Guarantees: such a job ends as expired when that time passes and it has not begun, whether or
    not a slot or a limit would let it. For one that has begun it counts no more, so that what
    follows, a retry for one, takes as long as it takes. Jobs without one cost nothing here.
    """

    def __init__(self, finisher: Finisher, clock: Clock) -> None:
        self._finisher = finisher
        self._clock = clock
        self._waiting: dict[str, tuple[Job, Callable[[Job], object]]] = {}
        self._entries: list[tuple[float, str]] = []  # also of jobs that have begun or ended since
        self._timer: asyncio.Handle | None = None
        self._fires_at = float("inf")

    def watch(self, job: Job, withdraw: Callable[[Job], object]) -> None:
        """`job` waits where `withdraw` takes it out. Does nothing for one that cannot expire."""
        expires_at = _expires_at(job)
        if expires_at is None or job.has_begun:
            return
        self._waiting[job.id] = (job, withdraw)
        heapq.heappush(self._entries, (expires_at, job.id))
        self._arm(expires_at)

    def forget(self, job: Job) -> None:
        """It does not wait there any more."""
        if self._waiting.pop(job.id, None) is not None:
            self._compact()

    def begin(self, job: Job, expires_at: float) -> bool:
        """Whether an attempt of `job` may begin now; else the job has ended as expired."""
        self.forget(job)
        if job.has_begun or self._clock.wall() < expires_at:
            job.has_begun = True
            return True
        self._end(job, expires_at)
        return False

    def close(self) -> None:
        """What waits is no longer watched."""
        self._waiting.clear()
        self._entries.clear()
        self._fires_at = float("-inf")
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, job: Job, expires_at: float) -> None:
        passed_at = datetime.fromtimestamp(expires_at, UTC).isoformat(timespec="milliseconds")
        text = f"waited longer than its deadline, which passed at {passed_at}"
        failure = Failure(Reason.EXPIRED, "Expired", text)
        outcome = Outcome(OutcomeKind.RAISED, failure=failure)
        self._finisher.apply(job, outcome, self._clock.unix())

    def _arm(self, expires_at: float) -> None:
        if expires_at >= self._fires_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = expires_at
        wait_s = min(_TIMER_MAX_S, max(0.0, expires_at - self._clock.wall()))
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def _fire(self) -> None:
        """End what is due, a bounded number in one turn of the loop."""
        self._timer, self._fires_at = None, float("inf")
        now = self._clock.wall()
        try:
            for _ in range(_ENDED_PER_TURN):
                if not self._entries or self._entries[0][0] > now:
                    break
                self._pass(*heapq.heappop(self._entries))
        finally:
            if self._entries:
                self._arm(self._entries[0][0])

    def _pass(self, expires_at: float, job_id: str) -> None:
        job, withdraw = self._waiting.get(job_id, (None, None))
        if job is None or withdraw is None or _expires_at(job) != expires_at:
            return
        del self._waiting[job_id]
        if job.state in (QUEUED, SCHEDULED) and not self._finisher.is_in_transition(job):
            withdraw(job)
            self._end(job, expires_at)

    def _compact(self) -> None:
        """Keep the entries in proportion to the jobs that they are about."""
        if len(self._entries) > 2 * len(self._waiting) + _COMPACT_AT_LEAST:
            self._entries = [
                (expires_at, job.id)
                for job, _ in self._waiting.values()
                if (expires_at := _expires_at(job)) is not None
            ]
            heapq.heapify(self._entries)


def _expires_at(job: Job) -> float | None:
    return None if job.options is None else job.options.expires_at
