"""Changing a queue's limits while it works, and enqueueing each call on its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from worker_runtime import (
    ConfigurationError,
    InvalidArguments,
    JobHandle,
    QueueFull,
    Runtime,
    UnknownQueue,
    UnknownTask,
    call,
    task,
)
from worker_runtime.acceptance.options import WIRE, EnqueueOptions


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


@pytest.mark.parametrize("is_durable", [False, True])
async def test_each_call_is_accepted_or_refused_on_its_own(
    is_durable: bool, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db" if is_durable else "memory://"
    named = EnqueueOptions(job_id="once", must_encode=True, wire=True)
    async with Runtime([add], store=store) as runtime:
        answers = await runtime.doorway.enqueue_each(
            [
                (WIRE, call("add", 1)),
                (WIRE, call("nope")),
                (WIRE, call("add", "x")),
                (named, call("add", 5)),
                (named, call("add", 5)),
                (EnqueueOptions(queue="nope"), call("add", 1)),
            ]
        )
        assert [type(answer) for answer in answers] == [
            JobHandle,
            UnknownTask,
            InvalidArguments,
            JobHandle,
            JobHandle,
            UnknownQueue,
        ]
        first, again = answers[3], answers[4]
        assert isinstance(first, JobHandle)
        assert isinstance(again, JobHandle)
        assert first.job is again.job
        assert (first.is_new, again.is_new) == (True, False)
        assert await first.result(timeout_s=5) == 7


async def test_results_for_a_wire_must_be_encodable_also_without_other_options() -> None:
    @task
    async def opaque() -> object:
        return object()

    async with Runtime([opaque]) as runtime:
        handle = await runtime.doorway.enqueue_with(WIRE, "opaque")
        await handle.wait(timeout_s=5)
        assert handle.info().reason == "unencodable"
        assert await (await runtime.enqueue("opaque")).result(timeout_s=5) is not None
