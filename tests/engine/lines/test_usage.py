"""What of a rate is used: never too much in any window, and all of it again when that is over."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime.engine.lines.usage import Use, Window
from worker_runtime.model.tasks.policy import Limit


def most_within(starts: list[float], seconds: float) -> int:
    """The most starts in any [at, at + seconds)."""
    return max(bisect_left(starts, at + seconds) - n for n, at in enumerate(starts))


def starts_of(window: Window, gaps_s: list[float]) -> list[float]:
    """When attempts start that come with these gaps, each as soon as it may."""
    starts: list[float] = []
    now = 1000.0
    for gap_s in gaps_s:
        now = max(now + gap_s, window.free_at(now + gap_s, 0))
        while window.free_at(now, 0) > now:  # a sum that was rounded
            now = window.free_at(now, 0)
        window.start(now)
        starts.append(now)
    return starts


@given(
    rate=st.integers(1, 8),
    per_s=st.sampled_from([0.1, 1.0, 60.0]),
    gaps=st.lists(st.floats(0, 0.5), max_size=60),
)
def test_no_window_has_more_than_the_rate(rate: int, per_s: float, gaps: list[float]) -> None:
    starts = starts_of(Window(rate, per_s, rate), [gap * per_s for gap in gaps])
    assert not starts or most_within(starts, per_s * (1 - 1e-9)) <= rate


@given(gaps=st.lists(st.floats(0, 0.2), max_size=60), burst=st.integers(1, 4))
def test_a_burst_is_no_larger_either(gaps: list[float], burst: int) -> None:
    rate, per_s = 8, 4.0
    starts = starts_of(Window(rate, per_s, burst), gaps)
    for n, first in enumerate(starts):
        for m, last in enumerate(starts[n:], 1):
            assert m <= burst + (last - first) * rate / per_s + 1e-9
    assert not starts or most_within(starts, per_s * (1 - 1e-9)) <= rate


@pytest.mark.parametrize("gap_s", [0.0, 1e-6, 1e-5, 1e-3])
def test_a_large_rate_takes_little_memory_and_is_not_exceeded(gap_s: float) -> None:
    window = Window(20_000, 1.0, 20_000)
    starts = starts_of(window, [gap_s] * 50_000)
    assert most_within(starts, 1.0) <= 20_000
    assert len(window._moments) <= 1_001
    if gap_s <= 1e-5:  # who would use all of it loses a thousandth
        assert starts[-1] - starts[0] < 2.01 + 50_000 * gap_s


def test_all_of_a_rate_is_there_again_when_its_time_has_passed() -> None:
    window = Window(3, 10.0, 3)
    for at in (100.0, 101.0, 105.0):
        assert window.free_at(at, 0) <= at
        window.start(at)
    assert window.free_at(105.0, 0) == 110.0
    assert not window.is_rested(114.9)
    assert window.is_rested(115.0)
    assert window.free_at(115.0, 2) == 115.0


def test_what_has_not_begun_counts_as_if_it_began_now() -> None:
    use = Use(Limit(rate=2, per_s=10.0))
    assert use.window is not None
    use.pending = 1
    assert use.free_at(100.0) == 100.0
    use.pending = 2
    assert use.free_at(100.0) == float("inf")
    use.pending = 1
    use.window.start(100.0)
    assert use.free_at(103.0) == 110.0


def test_a_use_is_idle_when_nothing_would_be_lost_with_it() -> None:
    use = Use(Limit(concurrency=1, rate=1, per_s=10.0))
    assert use.window is not None
    assert use.is_idle(100.0)
    use.lines = 1
    assert not use.is_idle(100.0)
    use.lines, use.running = 0, 1
    assert not use.is_idle(100.0)
    use.running = 0
    use.window.start(100.0)
    assert not use.is_idle(109.0)
    assert use.is_idle(110.0)
