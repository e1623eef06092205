"""Jobs that are due later start then, on either event loop, however short the delay."""

from __future__ import annotations

import pytest

from worker_runtime import Runtime, task

ONE_TICK_S = 0.0002  # less than the resolution of uvloop's timers


@task
async def echo(n: int) -> int:
    return n


@pytest.mark.both_loops
async def test_delays_shorter_than_a_timer_can_measure() -> None:
    async with Runtime([echo]) as runtime:
        soon = runtime.options(delay_s=ONE_TICK_S)
        jobs = [await soon.enqueue(echo, n) for n in range(50)]
        assert [await job.result(timeout_s=5) for job in jobs] == list(range(50))


@pytest.mark.both_loops
async def test_a_shorter_delay_overtakes_a_longer_one() -> None:
    async with Runtime([echo]) as runtime:
        late = await runtime.options(delay_s=3600).enqueue(echo, 1)
        early = await runtime.options(delay_s=0.02).enqueue(echo, 2)
        assert await early.result(timeout_s=5) == 2
        assert late.state == "scheduled"
