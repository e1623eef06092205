"""Wall-clock times for records, from the monotonic clock that durations are measured with.

A job's way needs both clocks at three places. Reading one and adding the offset between them is
half the cost, and a record's times then never contradict its durations.
"""

from __future__ import annotations

import time

monotonic = time.monotonic


class Clock:
    """Monotonic seconds, and `offset_s` that turns them into Unix seconds.

    Somebody has to call `adjust` about once a second: until then a clock that was set is not seen.
    """

    __slots__ = ("offset_s",)

    def __init__(self) -> None:
        self.offset_s = 0.0
        self.adjust()

    def adjust(self) -> None:
        self.offset_s = time.time() - monotonic()

    def unix(self) -> float:
        return monotonic() + self.offset_s
