"""Wall-clock times made from the monotonic clock agree with both."""

from __future__ import annotations

import time

import pytest

from worker_runtime.clock import wall
from worker_runtime.clock.wall import Clock


def test_it_tells_unix_seconds() -> None:
    before = time.time()
    told = Clock().unix()
    assert before - 0.001 <= told <= time.time() + 0.001


def test_a_clock_that_was_set_is_seen_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    offset_s = clock.offset_s
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600.0)
    assert clock.offset_s == offset_s
    clock.adjust()
    assert clock.offset_s == pytest.approx(offset_s + 3600.0, abs=10.0)


def test_times_differ_as_durations_do_until_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(wall, "monotonic", lambda: 100.0)
    first = clock.unix()
    monkeypatch.setattr(wall, "monotonic", lambda: 107.5)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.unix() - first == 7.5
