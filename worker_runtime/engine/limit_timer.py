"""One timer for all rates, and the news that a limit has a place again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker_runtime.clock.source import Clock
from worker_runtime.engine.lines.limits import Limits

# No duration depends on the wall clock; a test's clock may be moved while the timer sleeps.
_TIMER_MAX_S = 30.0


class LimitTimer:
    """Has the queues woken in which jobs may start again that a limit held up: in the next turn of
    the loop, and each of them once, however many places there are."""

    def __init__(self, limits: Limits, wake: Callable[[str], None], clock: Clock) -> None:
        """`wake` is given a queue's name."""
        self._limits = limits
        self._wake = wake
        self._monotonic = clock.monotonic
        self._timer: asyncio.Handle | None = None
        self._fires_at = float("inf")
        self._is_waking = False

    def look(self) -> None:
        """Something of the limits may have changed."""
        if self._limits.opened and not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake_opened)
        next_at = self._limits.next_at
        if next_at is not None and next_at < self._fires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = next_at
            wait_s = min(_TIMER_MAX_S, max(0.0, next_at - self._monotonic()))
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def close(self) -> None:
        self._fires_at = float("-inf")
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self._timer, self._fires_at = None, float("inf")
        self._limits.open_due()
        self.look()

    def _wake_opened(self) -> None:
        self._is_waking = False
        opened = list(self._limits.opened)
        self._limits.opened.clear()
        for queue in opened:
            self._wake(queue.name)
