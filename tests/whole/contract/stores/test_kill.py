"""What a kill of the process cannot take away, and neither can a day without one."""

from __future__ import annotations

import pytest

from tests.support.clocks import SetClock, assembled_with
from tests.support.helpers import eventually
from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import World
from worker_runtime import JobFailed, Reason, Retry, Runtime, State

DAY_S = 86_400.0


async def test_what_was_accepted_survives_a_kill(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        done = await runtime.enqueue("note", 1)
        await done.result(timeout_s=20)
        runtime.pause("default")
        waiting = await runtime.enqueue("note", 2)
        later = await runtime.options(delay_s=600).enqueue("note", 3)
        # What is recorded later is never kept earlier: this one's end is shown, so all is kept.
        await (await runtime.enqueue("post", "")).result(timeout_s=20)
        after = durable.after_kill()
    async with world.runtime(after) as runtime:
        assert await (await runtime.find(done.id)).result() == 1
        assert await (await runtime.find(waiting.id)).result(timeout_s=20) == 2
        assert (await runtime.find(later.id)).state is State.SCHEDULED
    assert world.order == [1, "", 2]


async def test_a_job_whose_process_died_runs_again_and_counts_a_crash(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("hold")
        await world.running(job.id)
        after = durable.after_kill()
    world.gate.set()
    async with world.runtime(after) as runtime:
        await runtime.join()
        found = await runtime.job(job.id)
        assert (found.state, found.result, found.attempt) == (State.COMPLETED, job.id, 2)
    assert world.runs[job.id] == 2


async def test_a_job_that_kills_three_processes_fails(durable: Place, world: World) -> None:
    place = durable
    for times in range(1, 4):
        async with world.runtime(place) as runtime:
            job = await runtime.options(job_id="deadly").enqueue("hold")
            await world.running(job.id, times)
            place = place.after_kill()
    async with world.runtime(place) as runtime:
        await runtime.join()
        with pytest.raises(JobFailed) as caught:
            await (await runtime.find("deadly")).result()
        assert caught.value.reason == Reason.CRASHED
    assert world.runs["deadly"] == 3


async def test_crashes_use_up_no_try(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.options(retry=Retry(max_attempts=1)).enqueue("hold")
        await world.running(job.id)
        after = durable.after_kill()
    world.gate.set()
    async with world.runtime(after) as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=20) == job.id


async def test_a_task_may_ask_to_fail_when_its_process_died(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("fragile")
        await world.running(job.id)
        after = durable.after_kill()
    async with world.runtime(after) as runtime:
        await runtime.join()
        with pytest.raises(JobFailed) as caught:
            await (await runtime.find(job.id)).result()
        assert caught.value.reason == Reason.INTERRUPTED
    assert world.runs[job.id] == 1


async def test_a_retry_that_was_waited_for_survives_a_kill(durable: Place, world: World) -> None:
    slow = Retry(max_attempts=2, delay_s=0.3, jitter=0)
    async with world.runtime(durable) as runtime:
        job = await runtime.options(retry=slow).enqueue("fail", 1)

        async def waits() -> bool:
            return (await runtime.find(job.id)).state is State.SCHEDULED

        await eventually(waits)
        after = durable.after_kill()
    async with world.runtime(after) as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=20) == 2


# A day later


def a_day_later(place: Place, world: World) -> Runtime:
    """A runtime on what is there when nobody has worked on it for more than a day."""
    place.let_pass(DAY_S + 3600)
    with assembled_with(SetClock(ahead_s=DAY_S + 3600)):
        return world.runtime(place)


@pytest.mark.differs(redis="E8: what it was called with lives for a day: it ends as expired")
async def test_a_job_waits_as_long_as_nobody_works(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        job = await runtime.enqueue("note", 1)
    async with a_day_later(durable, world) as runtime:
        await runtime.join()
        assert (await runtime.find(job.id)).state is State.COMPLETED
    assert world.order == [1]


@pytest.mark.differs(redis="E7: the count of its tries is forgotten within a day")
async def test_a_retry_that_is_due_after_a_day_is_still_the_second_try(
    durable: Place, world: World
) -> None:
    slow = Retry(max_attempts=2, delay_s=DAY_S, delay_max_s=DAY_S, jitter=0)
    async with world.runtime(durable) as runtime:
        job = await runtime.options(retry=slow).enqueue("fail", 9)
        await world.running(job.id)
    async with a_day_later(durable, world) as runtime:
        await world.running(job.id, 2)
        assert await (await runtime.find(job.id)).wait(timeout_s=2) is State.FAILED


async def test_a_job_that_is_due_after_a_day_runs_then(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        await runtime.options(delay_s=DAY_S).enqueue("note", 1)
    async with a_day_later(durable, world) as runtime:
        await runtime.join()
    assert world.order == [1]
