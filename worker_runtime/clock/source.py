"""The one place where time is read: a clock, of which each runtime has one and gives it out.

A job's way needs both times at three places. Reading the monotonic one and adding the offset
between them is half the cost, and a record's times then never contradict its durations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """What time it is, for every part that asks.

    wall       Unix seconds as the machine says now; it may be set, forwards or back
    monotonic  seconds since no moment in particular, for durations and deadlines; never goes back
    offset_s   turns monotonic seconds into the Unix seconds of `unix`

    The first two are the given functions themselves: what reads often keeps `clock.monotonic`, and
    pays for no call but that. Both may be called on any thread. Somebody has to call `adjust` about
    once a second: until then `unix` does not see that the wall clock was set.
    """

    __slots__ = ("monotonic", "offset_s", "wall")

    monotonic: Callable[[], float]
    offset_s: float
    wall: Callable[[], float]

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wall = wall
        self.monotonic = monotonic
        self.offset_s = 0.0
        self.adjust()

    def adjust(self) -> None:
        self.offset_s = self.wall() - self.monotonic()

    def unix(self) -> float:
        """Unix seconds for a record, in keeping with the durations beside it."""
        return self.monotonic() + self.offset_s

    def now_utc(self) -> datetime:
        """`wall` as an aware time of day."""
        return datetime.fromtimestamp(self.wall(), UTC)


SYSTEM = Clock()
"""For who has no runtime to get one from, as a default. Nobody adjusts it: it has no `unix`."""
