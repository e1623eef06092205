"""Whether one more job may be accepted: the machine's load, and the caller's own deadline."""

from __future__ import annotations

import logging

from worker_runtime.clock.source import Clock
from worker_runtime.engine.slots import Lane
from worker_runtime.errors import Overloaded
from worker_runtime.model.job import Job
from worker_runtime.services.forecast import Forecast
from worker_runtime.services.resources import ResourceSample

logger = logging.getLogger("worker_runtime.overload")

# Closed above the limit, open again only this many points below it: load that hovers at the limit
# must not open and close the door with every sample.
HYSTERESIS_PERCENT = 5.0

# A closed door is looked at each second, however long the interval is.
_RETRY_AFTER_MAX_S = 5.0
_WHOLE = 0.9


class Gate:
    """Closed while a resource is above its limit."""

    __slots__ = ("is_closed", "limit", "value", "what")

    def __init__(self, what: str, limit: float | None) -> None:
        self.what = what
        self.limit = limit
        self.value = 0.0
        self.is_closed = False

    def update(self, value: float) -> None:
        if self.limit is None:
            return
        self.value = value
        reopens_at = max(self.limit - HYSTERESIS_PERCENT, self.limit / 2)
        closed = value > (reopens_at if self.is_closed else self.limit)
        if closed != self.is_closed:
            self.is_closed = closed
            state = "refusing new jobs" if closed else "accepting jobs again"
            logger.warning("%s: %s at %.1f %%, limit %g %%", state, self.what, value, self.limit)


class OverloadControl:
    """Says no by raising Overloaded. Costs two truth tests where nothing speaks against a job."""

    def __init__(
        self,
        forecast: Forecast,
        clock: Clock,
        *,
        max_cpu_percent: float | None,
        max_memory_percent: float | None,
        sampled_every_s: float,
    ) -> None:
        self._forecast = forecast
        self._wall = clock.wall
        self._cpu = Gate("CPU", max_cpu_percent)
        self._memory = Gate("memory", max_memory_percent)
        self._limited = [gate for gate in (self._cpu, self._memory) if gate.limit is not None]
        self._retry_after_s = min(_RETRY_AFTER_MAX_S, max(1.0, sampled_every_s))
        self._closes_over_s = _WHOLE * sampled_every_s

    @property
    def has_limits(self) -> bool:
        return bool(self._limited)

    def observe(self, sample: ResourceSample) -> bool:
        """True: jobs are refused now, and the next look should come soon.

        The door closes on the CPU's mean over a whole interval, so that a start or a burst of half
        a second does not; a shorter look is enough to open it again.
        """
        if self._cpu.is_closed or sample.cpu_over_s >= self._closes_over_s:
            self._cpu.update(sample.cpu_percent)
        self._memory.update(sample.memory_percent)
        return self._cpu.is_closed or self._memory.is_closed

    def check(self, job: Job, lane: Lane) -> None:
        """Raises Overloaded."""
        for gate in self._limited:
            if gate.is_closed:
                text = f"{gate.what} is at {gate.value:.1f} %, above {gate.limit:g} %"
                raise self._refusal(text, job, lane, self._retry_after_s)
        if job.options is not None and job.options.expires_at is not None and not job.due_at:
            self._check_expiry(job, lane, job.options.expires_at)

    def _check_expiry(self, job: Job, lane: Lane, expires_at: float) -> None:
        wait_s = self._forecast.wait_s(lane, job.priority)
        left_s = expires_at - self._wall()
        if wait_s is not None and wait_s > left_s:
            text = f"queue {lane.name!r}: the job would wait {wait_s:.1f} s, and may {left_s:.1f} s"
            raise self._refusal(text, job, lane, self._forecast.retry_after_s(lane))

    def _refusal(self, text: str, job: Job, lane: Lane, retry_after_s: float) -> Overloaded:
        return Overloaded(
            text,
            retry_after_s=retry_after_s,
            position=lane.queue.ahead_of(job.priority) + 1,
            predicted_wait_s=self._forecast.guess_s(lane, job.priority),
        )
