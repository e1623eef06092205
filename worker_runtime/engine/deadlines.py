"""One timer for the deadlines of all running attempts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from worker_runtime.clock.source import Clock
from worker_runtime.engine.slots import Slot

logger = logging.getLogger("worker_runtime.dispatcher")


class DeadlineTimer:
    """Calls `expire(slot)` once a slot's deadline has passed.

    A timer per attempt would cost more than a short job does. Here an attempt arms the timer only
    when its deadline is nearer than all others; a timer that fires looks at the running slots,
    which are few, and sets itself to the nearest deadline that is left.
    """

    def __init__(
        self,
        running: Callable[[], Iterable[Slot]],
        expire: Callable[[Slot], None],
        clock: Clock,
    ) -> None:
        self._running = running
        self._expire = expire
        self._monotonic = clock.monotonic
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = float("inf")

    def arm(self, deadline: float) -> None:
        """Make sure that the timer fires no later than `deadline` (monotonic time)."""
        if deadline < self._fires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = deadline
            wait_s = max(0.0, deadline - self._monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._fires_at = float("inf")

    def _fire(self) -> None:
        self._timer = None
        self._fires_at = float("inf")
        now = self._monotonic()
        # A snapshot: expiring a slot may give it up and change what runs.
        for slot in list(self._running()):
            if slot.deadline is not None and slot.deadline <= now:
                try:
                    self._expire(slot)
                except Exception:  # of its executor: the deadlines of others hold all the same
                    logger.exception("an attempt past its deadline could not be stopped")
        nearest = min((s.deadline for s in self._running() if s.deadline is not None), default=None)
        if nearest is not None:
            self.arm(nearest)
