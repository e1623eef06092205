"""What outlives a process: every store that keeps jobs gives them to the one that comes after."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.helpers import eventually
from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import Colour, Order, World
from worker_runtime import (
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobFailed,
    Priority,
    Reason,
    Retry,
    State,
    call,
    cron,
    task,
)


class Point(msgspec.Struct):
    x: int
    at: datetime


# A stop and a new start


async def test_ended_jobs_are_found_after_a_restart(durable: Place, world: World) -> None:
    order = Order(date(2024, 2, 29), Colour.RED)
    async with world.runtime(durable) as runtime:
        done = await runtime.enqueue("place", order)
        failed = await runtime.enqueue("fail", 9)
        cancelled = await runtime.options(delay_s=60).enqueue("note", 1)
        await cancelled.cancel("not needed")
        await runtime.join()
    async with world.runtime(durable) as runtime:
        assert (await runtime.find(done.id)).state is State.COMPLETED
        with pytest.raises(JobFailed, match="failure 3"):
            await (await runtime.find(failed.id)).result()
        with pytest.raises(JobCancelled, match="not needed"):
            await (await runtime.find(cancelled.id)).result()
        same = runtime.options(job_id=done.id)
        assert (await same.enqueue("place", order)).is_new is False
        with pytest.raises(JobConflict):
            await same.enqueue("place", Order(date(2024, 3, 1), Colour.RED))
    assert world.seen == [order]


@pytest.mark.differs(redis="who looks for it gets the plain value, as it lies in Redis")
async def test_a_result_comes_back_as_its_annotation_says(durable: Place, world: World) -> None:
    order = Order(date(2024, 2, 29), Colour.RED)
    async with world.runtime(durable) as runtime:
        done = await runtime.enqueue("place", order)
        await done.wait(timeout_s=20)
    async with world.runtime(durable) as runtime:
        assert await (await runtime.find(done.id)).result() == order


async def test_arguments_come_back_as_their_annotations_say(durable: Place) -> None:
    seen: list[Any] = []

    @task
    async def see(point: Point, ids: set[UUID], *, pair: tuple[int, str] = (0, "")) -> None:
        seen.append((point, ids, pair))

    given = (Point(1, datetime(2026, 1, 2, tzinfo=UTC)), {UUID(int=5)}, (7, "seven"))
    async with durable.runtime([see]) as runtime:
        runtime.pause("default")
        await runtime.enqueue("see", given[0], given[1], pair=given[2])
    async with durable.runtime([see]) as runtime:
        await runtime.join()
    assert seen == [given]


async def test_an_ended_job_of_an_earlier_life_runs_again(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("fail", 4)
        await runtime.join()
    async with world.runtime(durable) as runtime:
        outcomes = await asyncio.gather(
            *(runtime.retry(job.id) for _ in range(5)), return_exceptions=True
        )
        assert [type(o) for o in outcomes].count(InvalidTransition) == 4
        handle = await runtime.find(job.id)
        assert await handle.result(timeout_s=20) == 2
    assert world.runs[job.id] == 5


async def test_waiting_jobs_come_back_in_their_order(durable: Place, world: World) -> None:
    orders = [Order(date(2024, 1, day), Colour.RED) for day in range(1, 20)]
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        for order in orders:
            await runtime.enqueue("place", order)
        later = await runtime.options(delay_s=600).enqueue("note", 1)
    async with world.runtime(durable, concurrency=1) as runtime:
        handle = await runtime.find(later.id)
        assert handle.state is State.SCHEDULED
        assert await handle.cancel()
        await runtime.join()
    assert world.seen == orders


@pytest.mark.differs(local="what is taken up first starts before the rest is there")
async def test_what_is_urgent_runs_first_also_after_a_restart(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
            await runtime.options(priority=priority).enqueue("note", priority.name)
    async with world.runtime(durable, concurrency=1) as runtime:
        await runtime.join()
    assert world.order == ["HIGH", "NORMAL", "LOW"]


async def test_waiting_jobs_keep_what_they_asked_for(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        patient = Retry(max_attempts=2, delay_s=0.001, jitter=0)
        options = runtime.options(retry=patient, timeout_s=0.01, label="mine")
        tried = await options.enqueue("fail", 9)
        short = await options.enqueue("hold")
        late = await runtime.options(expires_s=0.001).enqueue("note", 1)
    async with world.runtime(durable) as runtime:
        await runtime.join()
        assert world.runs[tried.id] == 2
        with pytest.raises(JobFailed) as caught:
            await (await runtime.find(short.id)).result()
        assert caught.value.reason == Reason.TIMEOUT
        with pytest.raises(JobFailed) as caught:
            await (await runtime.find(late.id)).result()
        assert caught.value.reason == Reason.EXPIRED
    assert world.order == []


async def test_an_interrupted_job_runs_again_without_losing_a_try(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("hold")
        await world.running(job.id)
        await runtime.stop(within_s=0)
    world.gate.set()
    async with world.runtime(durable) as runtime:
        await runtime.join()
        found = await runtime.job(job.id)
        assert (found.state, found.result) == (State.COMPLETED, job.id)
        assert (found.attempt, found.crashes) == (1, 0)
    assert world.runs[job.id] == 2


async def test_jobs_of_a_task_that_is_gone_are_parked_and_visible(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        job = await runtime.enqueue("note", 1)
        other = await runtime.enqueue("note", 2)
    async with durable.runtime([]) as runtime:
        handle = await runtime.find(job.id)
        assert (handle.state, handle.info().task) == (State.QUEUED, "note")
        assert {info.id for info in (await runtime.list_jobs()).jobs} == {job.id, other.id}
        assert await (await runtime.find(other.id)).cancel()
    async with world.runtime(durable) as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=20) == 1
    assert world.order == [1]


@pytest.mark.differs(redis="nobody serves it: the job waits, and cannot be seen in its queue")
async def test_a_job_of_a_queue_that_is_gone_runs_in_its_tasks_queue(durable: Place) -> None:
    ran: list[int] = []

    def tasks(queue: str) -> list[Any]:
        @task(queue=queue)
        async def moved(value: int) -> int:
            ran.append(value)
            return value

        return [moved]

    async with durable.runtime(tasks("old")) as runtime:
        runtime.pause("old")
        job = await runtime.enqueue("moved", 3)
    async with durable.runtime(tasks("new")) as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=2) == 3


async def test_arguments_that_no_longer_fit_fail_their_own_job_only(durable: Place) -> None:
    @task(name="work")
    async def before(value: str) -> str:
        return value

    @task(name="work")
    async def now(value: int) -> int:
        return value

    async with durable.runtime([before]) as runtime:
        runtime.pause("default")
        unfit = await runtime.enqueue("work", "text")
    async with durable.runtime([now]) as runtime:
        assert await (await runtime.enqueue("work", 7)).result(timeout_s=20) == 7
        await runtime.join()
        with pytest.raises(JobFailed) as caught:
            await (await runtime.find(unfit.id)).result()
        assert caught.value.reason == Reason.ERROR


async def test_new_jobs_stand_behind_those_of_earlier_lives(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        done = await runtime.enqueue("note", 0)
        await runtime.join()
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("note", 1)
        await runtime.join()
        assert [info.id for info in (await runtime.list_jobs()).jobs] == [job.id, done.id]


async def test_a_caller_that_goes_away_leaves_its_job_accepted(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        enqueueing = asyncio.ensure_future(runtime.options(job_id="mine").enqueue("note", 1))
        while runtime.doorway.job_here("mine") is None and not enqueueing.done():
            await asyncio.sleep(0)  # where it waits in this process it is there before it is kept
        enqueueing.cancel()
        await asyncio.wait([enqueueing])
        assert await (await runtime.find("mine")).result(timeout_s=20) == 1
    async with world.runtime(durable) as runtime:
        assert (await runtime.find("mine")).state is State.COMPLETED


async def test_jobs_of_earlier_lives_are_listed(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        failed = [(await runtime.enqueue("fail", 9)).id for _ in range(3)]
        done = (await runtime.enqueue("note", 1)).id
        await runtime.join()
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        waiting = (await runtime.enqueue("note", 2)).id
        page = await runtime.list_jobs(state=State.FAILED, limit=2)
        rest = await runtime.list_jobs(state=State.FAILED, limit=2, cursor=page.cursor)
        assert (len(page.jobs), rest.cursor) == (2, None)
        assert sorted(job.id for job in (*page.jobs, *rest.jobs)) == sorted(failed)
        assert (await runtime.list_jobs(state=State.QUEUED)).jobs[0].id == waiting
        everything = {job.id for job in (await runtime.list_jobs()).jobs}
        assert everything == {waiting, done, *failed}


@pytest.mark.differs(redis="the attempts before the last are not kept")
async def test_the_attempts_of_a_job_are_kept(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        job = await runtime.enqueue("fail", 2)
        await job.result(timeout_s=20)
    async with world.runtime(durable) as runtime:
        attempts = (await runtime.inspect(job.id)).attempts
        assert [attempt.error for attempt in attempts] == ["failure 1", "failure 2", None]


@pytest.mark.needs("unique_key")
async def test_a_unique_key_is_held_by_the_job_of_an_earlier_life(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        done = await runtime.options(unique_key="done", unique_for_s=600).enqueue("note", 1)
        await done.result(timeout_s=20)
        runtime.pause("default")
        waiting = await runtime.options(unique_key="waiting").enqueue("note", 2)
    async with world.runtime(durable) as runtime:
        runtime.pause("default")
        again = await runtime.options(unique_key="waiting").enqueue("note", 3)
        assert (again.id, again.is_new) == (waiting.id, False)
        again = await runtime.options(unique_key="done", unique_for_s=600).enqueue("note", 4)
        assert (again.id, again.is_new) == (done.id, False)


@pytest.mark.needs("workflows")
async def test_a_chain_goes_on_in_the_next_life(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        runtime.pause("mail")
        await runtime.chain(call("note", "a"), call("post"), call("note"), workflow_id="chain")
        await eventually(lambda: world.order == ["a"])
    async with world.runtime(durable) as runtime:
        assert await (await runtime.workflow("chain")).result(timeout_s=20) == "a"
    assert world.order == ["a", "a", "a"]


async def test_a_schedule_goes_on_where_it_stood(durable: Place) -> None:
    @cron("0 0 1 1 *")
    @task
    async def yearly() -> None: ...

    async with durable.runtime([yearly]) as runtime:
        [before] = runtime.crons()
    async with durable.runtime([yearly]) as runtime:
        [after] = runtime.crons()
        assert after.last_at is not None  # noted at the first start
        assert after.next_at == before.next_at
