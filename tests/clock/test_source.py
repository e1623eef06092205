"""A clock is the machine's functions themselves, and Unix time made of both agrees with both."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from worker_runtime.clock.source import Clock


def test_it_is_the_machines_functions_themselves() -> None:
    """What keeps one of them pays for no call in between."""
    clock = Clock()
    assert clock.wall is time.time
    assert clock.monotonic is time.monotonic


def test_it_tells_unix_seconds() -> None:
    before = time.time()
    told = Clock().unix()
    assert before - 0.001 <= told <= time.time() + 0.001


def test_a_clock_that_was_set_is_seen_at_the_next_look() -> None:
    wall, passed = 1_000.0, 5.0
    clock = Clock(wall=lambda: wall, monotonic=lambda: passed)
    assert clock.unix() == 1_000.0
    wall = 500.0
    assert clock.unix() == 1_000.0
    clock.adjust()
    assert clock.unix() == 500.0
    assert clock.now_utc() == datetime.fromtimestamp(500, UTC)


def test_times_differ_as_durations_do_until_the_next_look() -> None:
    wall, passed = 1_000.0, 100.0
    clock = Clock(wall=lambda: wall, monotonic=lambda: passed)
    first = clock.unix()
    passed, wall = 107.5, 0.0
    assert clock.unix() - first == 7.5
