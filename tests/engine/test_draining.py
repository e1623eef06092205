"""Ending in an orderly way: run what was accepted, and wait for nothing that is not coming."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from worker_runtime import Runtime, ShuttingDown, State, call, task


@task
async def work(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@pytest.mark.both_loops
async def test_drain_runs_what_waits_and_accepts_nothing_more() -> None:
    async with Runtime([work], concurrency=2) as runtime:
        jobs = [await runtime.enqueue(work, 0.01) for _ in range(10)]
        jobs.append(await runtime.options(delay_s=0.05).enqueue(work, 0.0))
        draining = asyncio.create_task(runtime.drain(within_s=10))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await runtime.enqueue(work, 0.0)
        assert await draining
        assert {job.state for job in jobs} == {State.COMPLETED}


async def test_an_id_is_refused_for_the_same_reason_once_the_file_is_closed(tmp_path: Path) -> None:
    runtime = Runtime([work], store=f"sqlite:///{tmp_path}/jobs.db")
    named = runtime.options(job_id="order:7")
    with pytest.raises(ShuttingDown, match="not started"):
        await named.enqueue(work, 0.0)
    async with runtime:
        pass
    named = runtime.options(job_id="order:8")
    with pytest.raises(ShuttingDown, match="stopping"):
        await named.enqueue(work, 0.0)
    [answer] = await runtime.doorway.enqueue_each([(named.now(), call(work, 0.0))])
    assert isinstance(answer, ShuttingDown)


async def test_drain_ends_when_its_time_is_over() -> None:
    async with Runtime([work], concurrency=1) as runtime:
        job = await runtime.enqueue(work, 60)
        assert not await runtime.drain(within_s=0.05)
        states = [job.state]
        await runtime.stop(0)
        states.append(job.state)
        assert states == [State.RUNNING, State.CANCELLED]


async def test_drain_waits_neither_for_the_far_future_nor_for_paused_queues() -> None:
    async with Runtime([work]) as runtime:
        runtime.pause("default")
        await runtime.enqueue(work, 0.0)
        assert await runtime.drain(within_s=60)
    async with Runtime([work]) as runtime:
        await runtime.options(delay_s=3600).enqueue(work, 0.0)
        began_at = time.monotonic()
        assert await runtime.drain(within_s=60)
        assert time.monotonic() - began_at < 30


async def test_join_and_drain_end_when_the_last_waiting_job_is_cancelled() -> None:
    async with Runtime([work]) as runtime:
        job = await runtime.options(delay_s=5).enqueue(work, 0.0)
        waiting = [asyncio.create_task(runtime.join()), asyncio.create_task(runtime.drain(60))]
        await asyncio.sleep(0)
        await job.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
