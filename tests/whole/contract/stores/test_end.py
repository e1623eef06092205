"""How every store has jobs end: once, with what they came to; and what may be done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import AT_ONCE, World
from worker_runtime import (
    Event,
    InvalidTransition,
    JobCancelled,
    JobFailed,
    Reason,
    Retry,
    RunAgain,
    ShuttingDown,
    State,
    UnknownJob,
    call,
    task,
)
from worker_runtime.model.states import TERMINAL_STATES


async def test_a_failing_job_is_tried_again_and_then_fails(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        good = await runtime.enqueue("fail", 2)
        bad = await runtime.enqueue("fail", 9)
        assert await good.result(timeout_s=20) == 3
        with pytest.raises(JobFailed, match="failure 3") as caught:
            await bad.result(timeout_s=20)
        failure = caught.value
        assert (failure.reason, failure.error_type) == (Reason.ERROR, "ValueError")
        assert world.runs[bad.id] == 3
        assert (await runtime.find(bad.id)).info().attempt == 3


@pytest.mark.differs(redis="the attempts before the last are not kept")
async def test_the_errors_of_all_attempts_are_kept(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.enqueue("fail", 9)
        await job.wait(timeout_s=20)
        errors = [attempt.error for attempt in (await runtime.inspect(job.id)).attempts]
        assert errors == ["failure 1", "failure 2", "failure 3"]


async def test_a_job_may_differ_from_its_task_in_its_tries_and_its_time(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime:
        patient = Retry(max_attempts=5, delay_s=0.001, jitter=0)
        tried = await runtime.options(retry=patient).enqueue("fail", 9)
        never = await runtime.options(retry=None).enqueue("fail", 9)
        short = await runtime.options(timeout_s=0.01).enqueue("hold")
        for job in (tried, never, short):
            assert await job.wait(timeout_s=20) is State.FAILED
        assert (world.runs[tried.id], world.runs[never.id]) == (5, 1)
        with pytest.raises(JobFailed) as caught:
            await (await runtime.find(short.id)).result()
        assert caught.value.reason == Reason.TIMEOUT


async def test_join_waits_for_jobs_that_are_tried_again(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        jobs = [await runtime.enqueue("fail", 2) for _ in range(20)]
        await runtime.join()
        assert {(await runtime.job(job.id)).state for job in jobs} == {State.COMPLETED}


async def test_a_job_that_asks_to_run_again_does(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.enqueue("again")
        assert await job.result(timeout_s=20) == 1  # waiting takes no attempt away
        assert world.runs[job.id] == 3


async def test_whoever_waits_while_it_runs_is_told_though_it_is_tried_again(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.enqueue("stumble")
        await world.running(job.id)
        found = await runtime.find(job.id)
        waiting = [asyncio.create_task(each.result(timeout_s=5)) for each in (job, found)]
        await asyncio.sleep(0)  # they wait
        world.gate.set()
        assert await asyncio.gather(*waiting) == [2, 2]


async def test_everybody_who_waits_is_told(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        runtime.pause("default")
        handles = [await runtime.enqueue("note", 1)]
        handles += [await runtime.find(handles[0].id) for _ in range(3)]
        waiting = [asyncio.create_task(handle.result(timeout_s=5)) for handle in handles]
        await asyncio.sleep(0)  # they wait
        runtime.resume("default")
        assert await asyncio.gather(*waiting) == [1] * 4


async def test_whoever_waits_is_told_when_the_worker_stops(durable: Place, world: World) -> None:
    async with world.runtime(durable, concurrency=1) as runtime:
        running = await runtime.enqueue("hold")
        await world.running(running.id)
        queued = await runtime.enqueue("note", 1)
        later = await runtime.options(delay_s=60).enqueue("note", 2)
        waiting = [asyncio.create_task(job.result(timeout_s=5)) for job in (running, queued, later)]
        await asyncio.sleep(0)  # they wait
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in told} == {ShuttingDown}


async def test_runs_that_count_use_up_the_tries(store: Place) -> None:
    runs = 0

    @task(retry=Retry(max_attempts=3))
    async def stubborn() -> None:
        nonlocal runs
        runs += 1
        raise RunAgain(0.001, uses_attempt=True)

    async with store.runtime([stubborn]) as runtime:
        job = await runtime.enqueue("stubborn")
        with pytest.raises(JobFailed, match="has used up its tries: 3"):
            await job.result(timeout_s=20)
        assert runs == 3
        await (await runtime.retry(job.id)).wait(timeout_s=20)
        assert runs == 6  # on request it has a fresh budget


async def test_every_end_is_told_once(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime, runtime.subscribe() as events:
        done = await runtime.enqueue("note", 1)
        failed = await runtime.enqueue("fail", 9)
        await runtime.join()
    told = [event async for event in events if isinstance(event, Event)]
    ends = [(event.job_id, event.state) for event in told if event.state in TERMINAL_STATES]
    assert sorted(ends) == sorted([(done.id, State.COMPLETED), (failed.id, State.FAILED)])


async def test_a_result_that_a_store_cannot_hold_fails_the_job(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("odd")
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout_s=20)
        assert caught.value.reason == Reason.UNENCODABLE


# Cancel


async def test_waiting_and_running_jobs_can_be_cancelled(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        running = await runtime.enqueue("hold")
        await world.running(running.id)
        waiting = await runtime.enqueue("note", 1)
        later = await runtime.options(delay_s=60).enqueue("note", 2)
        for job in (waiting, later, running):
            assert await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result(timeout_s=20)
            assert (await runtime.find(job.id)).state is State.CANCELLED
            assert await job.cancel() is False
        await runtime.join()
    assert world.order == []


async def test_a_cancelled_job_says_why(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        running = await runtime.enqueue("hold")
        await world.running(running.id)
        waiting = await runtime.enqueue("note", 1)
        for job in (waiting, running):
            assert await job.cancel("not needed")
            with pytest.raises(JobCancelled, match="not needed"):
                await job.result(timeout_s=20)
            with pytest.raises(JobCancelled, match="not needed"):
                await (await runtime.find(job.id)).result(timeout_s=20)


async def test_what_was_cancelled_before_it_ran_has_no_attempt(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.options(delay_s=60).enqueue("note", 1)
        assert await runtime.cancel(job.id)
        info = (await runtime.find(job.id)).info()
        assert (info.state, info.attempt, info.started_at) == (State.CANCELLED, 0, None)
        with pytest.raises(UnknownJob):
            await runtime.cancel("nobody")


# Run again


async def test_an_ended_job_runs_again_on_request(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.enqueue("fail", 4)
        await job.wait(timeout_s=20)
        assert job.state is State.FAILED
        again = await runtime.retry(job.id)
        assert await again.result(timeout_s=20) == 2
        with pytest.raises(InvalidTransition):
            await runtime.retry(job.id)


async def test_a_cancelled_job_runs_again_on_request(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.options(delay_s=60).enqueue("note", 1)
        await job.cancel()
        assert await (await runtime.retry(job.id)).result(timeout_s=20) == 1


@pytest.mark.differs(redis="the record that its caller held stays as it ended")
async def test_whoever_holds_a_job_sees_it_run_again(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.enqueue("fail", 4)
        await job.wait(timeout_s=20)
        await runtime.retry(job.id)
        await eventually(lambda: world.runs[job.id] == 5)
        await runtime.join()
        assert job.state is State.COMPLETED


async def test_what_has_not_failed_is_not_run_again(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        done = await runtime.enqueue("note", 1)
        await done.result(timeout_s=20)
        waiting = await runtime.options(delay_s=60).enqueue("note", 2)
        for job in (done, waiting):
            with pytest.raises(InvalidTransition):
                await runtime.retry(job.id)
        with pytest.raises(UnknownJob):
            await runtime.retry("nobody")
    assert world.order == [1]


async def test_many_ended_jobs_run_again_together(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        jobs = await runtime.enqueue_many(call("fail", 3) for _ in range(5))
        await runtime.enqueue("note", 1)
        await runtime.join()
        result = await runtime.retry_many(limit=3)
        assert len(result.jobs) == 3
        assert result.has_more
        result = await runtime.retry_many(task="note")
        assert (result.jobs, result.has_more) == ([], False)
        await runtime.retry_many()
        await runtime.join()
        assert {(await runtime.job(job.id)).state for job in jobs} == {State.COMPLETED}
    assert world.order == [1]


# What a job is called with


async def test_a_retry_on_request_calls_with_what_was_accepted(store: Place) -> None:
    seen: list[list[int]] = []
    async with store.runtime([emptying(seen)]) as runtime:
        job = await runtime.enqueue("empties", [1, 2])
        await job.wait(timeout_s=20)
        await runtime.retry(job.id)
        await runtime.join()
    assert seen == [[1, 2], [1, 2]]


async def test_every_attempt_is_called_with_what_was_accepted(store: Place) -> None:
    seen: list[list[int]] = []
    async with store.runtime([emptying(seen)]) as runtime:
        job = await runtime.options(retry=AT_ONCE).enqueue("empties", [1, 2])
        await job.wait(timeout_s=20)
    assert seen == [[1, 2]] * 3


async def test_the_same_call_is_the_same_job_whatever_its_task_did(store: Place) -> None:
    async with store.runtime([emptying([])]) as runtime:
        named = runtime.options(job_id="one")
        await (await named.enqueue("empties", [1, 2])).wait(timeout_s=20)
        assert (await named.enqueue("empties", [1, 2])).is_new is False


def emptying(seen: list[list[int]]) -> Callable[..., Any]:
    """A task that writes down what it was called with, and empties it."""

    @task
    async def empties(values: list[int]) -> None:
        seen.append(list(values))
        values.clear()
        raise ValueError

    return empties


# Forget


async def test_a_job_is_kept_as_long_as_it_says(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        brief = await runtime.options(result_ttl_s=0.001).enqueue("note", 1)
        long = await runtime.enqueue("note", 2)
        await brief.wait(timeout_s=20)
        await long.wait(timeout_s=20)

        async def is_gone() -> bool:
            try:
                await runtime.find(brief.id)
            except UnknownJob:
                return True
            return False

        await eventually(is_gone)
        assert [job.id for job in (await runtime.list_jobs()).jobs] == [long.id]


@pytest.mark.needs("delete")
async def test_an_ended_job_is_forgotten_on_request(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        done = await runtime.enqueue("note", 1)
        await done.result(timeout_s=20)
        later = await runtime.options(delay_s=60).enqueue("note", 2)
        await runtime.delete(done.id)
        with pytest.raises(UnknownJob):
            await runtime.find(done.id)
        with pytest.raises(InvalidTransition):
            await runtime.delete(later.id)
        assert (await runtime.options(job_id=done.id).enqueue("note", 3)).is_new


@pytest.mark.needs("delete")
async def test_many_ended_jobs_are_forgotten_together(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        await runtime.enqueue_many(call("note", n) for n in range(5))
        await runtime.join()
        result = await runtime.delete_many(state=State.COMPLETED, limit=3)
        assert (len(result.jobs), result.has_more) == (3, True)
        await runtime.delete_many(state=State.COMPLETED)
        assert (await runtime.list_jobs()).jobs == []


async def test_an_attempt_that_is_cut_short_by_a_stop_is_not_an_end(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.options(retry=AT_ONCE).enqueue("hold")
        await world.running(job.id)
        stopping = asyncio.create_task(runtime.stop(within_s=0))
        await stopping
        assert not job.job.is_ended
