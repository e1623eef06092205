"""Changing a queue's limits while it works."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.helpers import eventually
from worker_runtime import (
    ConfigurationError,
    QueueFull,
    Runtime,
    UnknownQueue,
    task,
)


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


async def test_a_larger_concurrency_starts_waiting_jobs_at_once() -> None:
    release = asyncio.Event()

    @task
    async def held() -> None:
        await release.wait()

    async with Runtime([held], concurrency=1) as runtime:
        jobs = [await runtime.enqueue(held) for _ in range(4)]
        assert runtime.queue_info("default").running == 1
        runtime.resize("default", concurrency=3)
        assert runtime.queue_info("default").running == 3
        runtime.resize("default", concurrency=1)
        release.set()
        for job in jobs:
            await job.wait(timeout_s=5)
        await eventually(lambda: runtime.queue_info("default").running == 0)


async def test_a_smaller_concurrency_is_reached_as_jobs_end() -> None:
    released = asyncio.Semaphore(0)
    ended = 0

    @task
    async def held() -> None:
        nonlocal ended
        await released.acquire()
        ended += 1

    async with Runtime([held], concurrency=3) as runtime:
        for _ in range(6):
            await runtime.enqueue(held)
        runtime.resize("default", concurrency=1)
        for count, running in enumerate((2, 1, 1, 1, 1, 0), start=1):
            released.release()
            await eventually(lambda count=count: ended == count)  # type: ignore[misc]
            await asyncio.sleep(0)  # the slot has had its turn to take another
            assert runtime.queue_info("default").running == running


async def test_a_smaller_capacity_keeps_what_waits_and_refuses_more() -> None:
    async with Runtime([add], queue_capacity=10) as runtime:
        runtime.pause("default")
        jobs = [await runtime.enqueue(add, n) for n in range(5)]
        runtime.resize("default", capacity=2)
        assert runtime.queue_info("default").capacity == 2
        with pytest.raises(QueueFull):
            await runtime.enqueue(add, 1)
        runtime.resume("default")
        assert [await job.result(timeout_s=5) for job in jobs] == [2, 3, 4, 5, 6]


async def test_limits_that_cannot_be_are_refused() -> None:
    async with Runtime([add]) as runtime:
        before = runtime.queue_info("default")
        for limits in ({"concurrency": 0}, {"capacity": -1}, {"capacity": 10**9}):
            with pytest.raises(ConfigurationError, match="queue 'default'"):
                runtime.resize("default", **limits)
        with pytest.raises(UnknownQueue):
            runtime.resize("nope", capacity=1)
        assert runtime.queue_info("default") == before
