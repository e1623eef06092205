"""Times that a clock makes from the monotonic one agree with both."""

from __future__ import annotations

import time

import pytest

from worker_runtime.clock.source import Clock


def test_it_tells_unix_seconds() -> None:
    before = time.time()
    told = Clock().unix()
    assert before - 0.001 <= told <= time.time() + 0.001


def test_a_clock_that_was_set_is_seen_at_the_next_look() -> None:
    now = [1000.0]
    clock = Clock(wall=lambda: now[0])
    offset_s = clock.offset_s
    now[0] += 3600.0
    assert clock.offset_s == offset_s
    clock.adjust()
    assert clock.offset_s == pytest.approx(offset_s + 3600.0, abs=10.0)


def test_times_differ_as_durations_do_until_the_next_look() -> None:
    now, passed = [1000.0], [100.0]
    clock = Clock(wall=lambda: now[0], monotonic=lambda: passed[0])
    first = clock.unix()
    passed[0] += 7.5
    now[0] = 0.0
    assert clock.unix() - first == 7.5
