"""What a store may lack does what it says where it is there, and is refused where it is not."""

from __future__ import annotations

import asyncio

import pytest

from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import World
from worker_runtime import (
    Limit,
    Priority,
    QueueSettings,
    Retry,
    State,
    UnknownJob,
    call,
    task,
)


@pytest.mark.needs("unique_key")
async def test_an_unfinished_job_of_a_unique_key_is_the_job(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        runtime.pause("default")
        unique = runtime.options(unique_key="one")
        first = await unique.enqueue("note", 1)
        second = await unique.enqueue("note", 2)
        assert (second.id, second.is_new) == (first.id, False)
        runtime.resume("default")
        await first.result(timeout_s=20)
        third = await unique.enqueue("note", 3)
        assert third.is_new
        await third.result(timeout_s=20)
    assert world.order == [1, 3]


@pytest.mark.needs("unique_key")
async def test_a_unique_key_may_hold_for_a_time(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        unique = runtime.options(unique_key="one", unique_for_s=600)
        first = await unique.enqueue("note", 1)
        await first.result(timeout_s=20)
        second = await unique.enqueue("note", 2)
        assert (second.is_new, await second.result()) == (False, 1)
    assert world.order == [1]


@pytest.mark.needs("key")
async def test_keys_take_turns(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        runtime.pause("default")
        one, two = runtime.options(key="one"), runtime.options(key="two")
        jobs = [await one.enqueue("note", n) for n in (1, 2, 3)]
        jobs.append(await two.enqueue("note", 4))
        runtime.resume("default")
        for job in jobs:
            await job.result(timeout_s=20)
    assert world.order == [1, 4, 2, 3]


@pytest.mark.needs("after")
async def test_a_job_waits_for_those_before_it(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        parent = await runtime.enqueue("hold")
        child = await runtime.options(after=[parent]).enqueue("note", "child")
        lost = await runtime.options(after=[await runtime.enqueue("fail", 9)]).enqueue("note", 1)
        await lost.wait(timeout_s=20)
        assert (lost.state, child.state) == (State.CANCELLED, State.SCHEDULED)
        world.gate.set()
        assert await child.result(timeout_s=20) == "child"
    assert world.order == ["child"]


@pytest.mark.needs("workflows")
async def test_a_chain_hands_results_on(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        sums = [call("in_thread", 1, 2), call("in_thread", 3, 4)]
        chain = await runtime.chain(sums, call("note"), workflow_id="sums")
        assert await chain.result(timeout_s=20) == [3, 7]
        found = await runtime.workflow("sums")
        assert [job.state for job in found.jobs] == [State.COMPLETED] * 3


@pytest.mark.needs("limits")
async def test_a_task_has_limits_of_its_own(store: Place, world: World) -> None:
    running: list[int] = []

    @task(limit=Limit(concurrency=1))
    async def limited() -> int:
        running.append(1)
        await asyncio.sleep(0)
        most = len(running)
        running.pop()
        return most

    async with store.runtime([limited], concurrency=4) as runtime:
        jobs = [await runtime.enqueue("limited") for _ in range(10)]
        assert {await job.result(timeout_s=20) for job in jobs} == {1}


@pytest.mark.needs("limits")
async def test_a_queue_has_limits_for_each_key(store: Place, world: World) -> None:
    queues = [QueueSettings("default", per_key=Limit(concurrency=1))]
    async with world.runtime(store, queues=queues) as runtime:
        held = await runtime.options(key="a").enqueue("hold")
        behind = await runtime.options(key="a").enqueue("note", "a")
        assert await (await runtime.options(key="b").enqueue("note", "b")).result(timeout_s=20)
        assert behind.state is State.QUEUED
        world.gate.set()
        await held.result(timeout_s=20)
        await behind.result(timeout_s=20)
    assert world.order == ["b", "a"]


@pytest.mark.needs("aging")
async def test_what_waits_long_overtakes_what_is_more_urgent(store: Place, world: World) -> None:
    queues = [QueueSettings("default", concurrency=1, aging_s=60)]
    async with world.runtime(store, queues=queues) as runtime:
        runtime.pause("default")
        low = await runtime.options(priority=Priority.LOW).enqueue("note", "low")
        low.job.created_at -= 600  # as if it had waited
        await runtime.enqueue("note", "normal")
        runtime.resume("default")
        await runtime.join()
    assert world.order == ["low", "normal"]


@pytest.mark.needs("only_for")
async def test_a_job_may_say_which_errors_are_tried_again(store: Place, world: World) -> None:
    patient = Retry(max_attempts=3, delay_s=0.001, only_for=(KeyError,))
    async with world.runtime(store) as runtime:
        job = await runtime.options(retry=patient).enqueue("fail", 9)
        await job.wait(timeout_s=20)
        assert world.runs[job.id] == 1


@pytest.mark.needs("transaction")
async def test_a_job_exists_exactly_when_the_applications_rows_do(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime:
        async with runtime.transaction() as tx:
            await tx.execute("CREATE TABLE orders (item TEXT)")
            await tx.execute("INSERT INTO orders VALUES (?)", ("tea",))
            job = await tx.enqueue("note", 1)
            named = await tx.enqueue_with(runtime.options(job_id="named").now(), "note", (2,))
            with pytest.raises(UnknownJob):
                await runtime.find(job.id)
        assert (await job.result(timeout_s=20), await named.result(timeout_s=20)) == (1, 2)
        with pytest.raises(ZeroDivisionError):
            async with runtime.transaction() as tx:
                await tx.execute("DELETE FROM orders")
                lost = await tx.enqueue("note", 3)
                raise ZeroDivisionError
        with pytest.raises(UnknownJob):
            await runtime.find(lost.id)
        async with runtime.transaction() as tx:
            assert await tx.execute("SELECT item FROM orders") == [("tea",)]
            same = await tx.enqueue_with(runtime.options(job_id="named").now(), "note", (2,))
            assert same.is_new is False
        await runtime.join()
    assert world.order == [1, 2]
