"""Waiting for jobs on behalf of requests."""

from __future__ import annotations

import asyncio

import pytest

from worker_runtime import Runtime, task
from worker_runtime.web.wire.waits import JobWaits


async def test_waits_share_a_timer_and_keep_their_own_limits() -> None:
    release = asyncio.Event()

    @task
    async def held() -> None:
        await release.wait()

    async with Runtime([held]) as runtime:
        waits = JobWaits(runtime)
        job = (await runtime.enqueue(held)).job
        long = asyncio.create_task(waits.ended_within(job, 30))
        assert not await waits.ended_within(job, 0.02)
        assert not await waits.ended_within(job, 0)
        assert not long.done()
        release.set()
        assert await long
        assert await waits.ended_within(job, 0)
        assert runtime.statistics().waiters == 0


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    @task
    async def held() -> None:
        await asyncio.Event().wait()

    async with Runtime([held]) as runtime:
        waits = JobWaits(runtime)
        job = (await runtime.enqueue(held)).job
        waiting = asyncio.create_task(waits.ended_within(job, 30))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert runtime.statistics().waiters == 0
        assert not waits._deadlines
        await runtime.cancel(job.id)
