"""How much of one limit is used, and when it lets another attempt start. Times are monotonic."""

from __future__ import annotations

from math import inf
from typing import Protocol

from worker_runtime.model.tasks.policy import Limit

# Of a rate above this, starts that lie close to each other are remembered as one moment.
_MOMENTS_MAX = 1000


class Window:
    """The starts of the last `per_s` seconds.

    Guarantees: never more than `rate` of them lie in any `per_s` seconds, nor more than
    `burst + t * rate / per_s` in any t. A moment is the latest of the starts it stands for, so that
    a large rate takes little memory and is not exceeded; it is used up to a thousandth later.
    """

    __slots__ = (
        "_burst",
        "_count",
        "_counts",
        "_each_s",
        "_grain_s",
        "_moment_from",
        "_moments",
        "_per_s",
        "_rate",
        "_rested_at",
    )

    def __init__(self, rate: int, per_s: float, burst: int) -> None:
        self._rate = rate
        self._per_s = per_s
        self._burst = burst
        self._each_s = per_s / rate
        self._grain_s = per_s / _MOMENTS_MAX if rate > _MOMENTS_MAX else 0.0
        self._moments: list[float] = []
        self._counts: list[int] = []
        self._count = 0
        self._moment_from = -inf
        # As if the starts came one by one: when the last of them would have been due, and one more.
        self._rested_at = -inf

    def free_at(self, now: float, pending: int) -> float:
        """When another may start beside `pending` ones that are about to; infinite: not before one
        of these has."""
        if pending >= self._burst:
            return inf
        self._forget_passed(now)
        at = now
        if self._count + pending >= self._rate:
            at = self._moments[0] + self._per_s
        if self._burst < self._rate:
            due_at = max(self._rested_at, now) + (pending + 1 - self._burst) * self._each_s
            at = max(at, due_at)
        return at

    def start(self, now: float) -> None:
        self._forget_passed(now)
        self._count += 1
        if self._moments and now - self._moment_from < self._grain_s:
            self._moments[-1] = now
            self._counts[-1] += 1
        else:
            self._moment_from = now
            self._moments.append(now)
            self._counts.append(1)
        if self._burst < self._rate:
            self._rested_at = max(self._rested_at, now) + self._each_s

    def is_rested(self, now: float) -> bool:
        """Whether it is as if nothing had ever started."""
        self._forget_passed(now)
        return not self._count and self._rested_at <= now

    def _forget_passed(self, now: float) -> None:
        passed = 0
        for moment in self._moments:
            if moment + self._per_s > now:
                break
            passed += 1
        if passed:
            self._count -= sum(self._counts[:passed])
            del self._moments[:passed], self._counts[:passed]


class Barrier(Protocol):
    """Where those of one queue wait whose limit is used up."""

    def open(self) -> None:
        """It may let another start."""
        ...


class Use:
    """One limit at work.

    running   attempts that were let start and have not ended
    pending   of these, where there is a rate: those whose function has not been called yet. They
              count as starts, and as none if that never happens
    lines     lines of waiting jobs that fall under it
    barriers  where jobs wait for it, at most one for each queue
    is_timed  `Limits` looks again when its rate has time
    """

    __slots__ = ("_concurrency", "barriers", "is_timed", "lines", "pending", "running", "window")

    def __init__(self, limit: Limit) -> None:
        self._concurrency = inf if limit.concurrency is None else limit.concurrency
        self.window: Window | None = None
        if limit.rate is not None:
            burst = limit.rate if limit.burst is None else limit.burst
            self.window = Window(limit.rate, limit.per_s, burst)
        self.running = 0
        self.pending = 0
        self.lines = 0
        self.barriers: list[Barrier] = []
        self.is_timed = False

    def free_at(self, now: float) -> float:
        """When another may start, at once where that is not after `now`; infinite: not before
        something else happens."""
        if self.running >= self._concurrency:
            return inf
        return now if self.window is None else self.window.free_at(now, self.pending)

    def is_idle(self, now: float) -> bool:
        """Whether nothing would be lost with it."""
        if self.lines or self.running:
            return False
        return self.window is None or self.window.is_rested(now)
