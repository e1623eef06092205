"""Waiting for jobs on behalf of requests."""

from __future__ import annotations

import asyncio

from worker_runtime.model.job import Job
from worker_runtime.runtime import Runtime


class JobWaits:
    """Waits for jobs, each with a limit of its own, all on one timer: a timer each would cost a
    good part of what a short job does."""

    _TIMER_MIN_S = 0.01

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._monotonic = runtime.doorway.clock.monotonic
        self._deadlines: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = float("inf")

    async def ended_within(self, job: Job, seconds: float) -> bool:
        """Wait for the job to end; False once `seconds` have passed. Raises Unavailable where too
        many wait already, or where the worker stops and keeps the job for later."""
        if job.ended_at is not None:
            return True
        waiter = self._runtime.doorway.wait(job)
        self._deadlines[waiter] = deadline = self._monotonic() + seconds
        if deadline < self._fires_at:
            self._arm(deadline)
        try:
            await waiter
        except TimeoutError:
            return False
        finally:
            del self._deadlines[waiter]
            if job.ended_at is None:
                self._runtime.doorway.stop_waiting(job, waiter)
        return True

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = deadline
        delay_s = max(self._TIMER_MIN_S, deadline - self._monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._fires_at = nearest = float("inf")
        now = self._monotonic()
        for waiter, deadline in self._deadlines.items():
            if deadline > now:
                nearest = min(nearest, deadline)
            elif not waiter.done():
                waiter.set_exception(TimeoutError())
        if nearest < self._fires_at:
            self._arm(nearest)
