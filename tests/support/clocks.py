"""Clocks that a test sets, and runtimes that go by them."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from worker_runtime.assembly import assemble
from worker_runtime.clock.source import Clock


class SetClock(Clock):
    """The machine's clock set `ahead_s` seconds forward, or back. Durations are what they are."""

    __slots__ = ("ahead_s",)

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s
        super().__init__(wall=self._read)

    def _read(self) -> float:
        return time.time() + self.ahead_s


class StillClock(Clock):
    """Stands still at `at` (Unix seconds) until a test moves it; durations are 0 meanwhile."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at
        super().__init__(wall=self._read, monotonic=self._read)

    def _read(self) -> float:
        return self.at


@contextmanager
def assembled_with(clock: Clock) -> Iterator[None]:
    """Runtimes that are made in this block go by `clock`."""
    assembling = functools.partial(assemble, clock=clock)
    with mock.patch("worker_runtime.runtime.assemble", assembling):
        yield
