"""Every transition reaches every subscriber, in order; the slow are told what they missed."""

from __future__ import annotations

import asyncio

import pytest

from worker_runtime import Event, Missed, Reason, Runtime, Settings, State, call
from worker_runtime.engine.events import BUFFER_MAX


async def work(n: int = 0) -> int:
    return n


async def fail() -> None:
    raise ValueError


@pytest.mark.both_loops
async def test_a_subscriber_sees_each_transition_with_its_job() -> None:
    async with Runtime([work, fail]) as runtime, runtime.subscribe() as events:
        done = await runtime.enqueue(work, 1)
        await done.result(timeout_s=5)
        failed = await runtime.options(job_id="bad").enqueue(fail)
        await failed.wait(timeout_s=5)
        await runtime.stop()
        seen = [event async for event in events]
    told = [(e.job_id, e.task, e.queue, e.state, e.attempt, e.reason) for e in seen]  # type: ignore[union-attr]
    assert told == [
        (done.id, "work", "default", State.QUEUED, 0, None),
        (done.id, "work", "default", State.RUNNING, 1, None),
        (done.id, "work", "default", State.COMPLETED, 1, None),
        ("bad", "fail", "default", State.QUEUED, 0, None),
        ("bad", "fail", "default", State.RUNNING, 1, None),
        ("bad", "fail", "default", State.FAILED, 1, Reason.ERROR),
    ]


async def test_a_cancel_and_an_expiry_are_told() -> None:
    async with Runtime([work]) as runtime, runtime.subscribe() as events:
        runtime.pause("default")
        cancelled = await runtime.enqueue(work)
        expired = await runtime.options(expires_s=0.001).enqueue(work)
        await cancelled.cancel()
        await asyncio.sleep(0.01)
        runtime.resume("default")
        await expired.wait(timeout_s=5)
        await runtime.stop()
        told = [(e.job_id, e.state) async for e in events if isinstance(e, Event)]
    assert told == [
        (cancelled.id, State.QUEUED),
        (expired.id, State.QUEUED),
        (cancelled.id, State.CANCELLED),
        (expired.id, State.FAILED),
    ]


async def test_a_slow_subscriber_is_told_how_much_it_missed_and_a_quick_one_misses_nothing() -> (
    None
):
    async with (
        Runtime([work]) as runtime,
        runtime.subscribe(buffer=4) as slow,
        runtime.subscribe() as quick,
    ):
        for handle in await runtime.enqueue_many(call(work, n) for n in range(10)):
            await handle.result(timeout_s=5)
        await runtime.stop()
        late = [event async for event in slow]
        every = [event async for event in quick]
    assert len(every) == 30
    assert late == [Missed(26), *every[-4:]]


async def test_whoever_leaves_is_not_told_any_more_and_costs_nothing() -> None:
    async with Runtime([work]) as runtime:
        async with runtime.subscribe() as events:
            await (await runtime.enqueue(work)).result(timeout_s=5)
        assert runtime.parts.events.subscriptions == []
        await (await runtime.enqueue(work)).result(timeout_s=5)
        assert len([event async for event in events]) == 3


async def test_waiting_for_an_event_ends_with_the_runtime() -> None:
    async with Runtime([work], settings=Settings()) as runtime, runtime.subscribe() as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await runtime.stop()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 5)
    async with runtime.subscribe() as late:  # nothing will happen any more
        assert [event async for event in late] == []


@pytest.mark.parametrize("buffer", [0, -1, BUFFER_MAX + 1])
async def test_the_buffer_is_bounded(buffer: int) -> None:
    with pytest.raises(ValueError, match=f"buffer must be between 1 and {BUFFER_MAX}"):
        Runtime([work]).subscribe(buffer=buffer)
