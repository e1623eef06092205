"""What every store accepts and refuses, and in which order it lets it run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.fleet_worker import served
from tests.support.helpers import eventually
from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import World
from worker_runtime import (
    InvalidArguments,
    InvalidJob,
    JobConflict,
    JobFailed,
    PayloadTooLarge,
    Priority,
    QueueFull,
    QueueSettings,
    Reason,
    ShuttingDown,
    State,
    UnknownJob,
    UnknownQueue,
    UnknownTask,
    call,
)


async def test_a_job_runs_once_and_its_result_is_kept(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        jobs = [await runtime.enqueue("note", n) for n in range(50)]
        assert [await job.result(timeout_s=20) for job in jobs] == list(range(50))
        found = await runtime.find(jobs[7].id)
        assert (found.state, await found.result()) == (State.COMPLETED, 7)
    assert sorted(world.order) == list(range(50))


async def test_a_sync_task_runs_in_a_thread(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        assert await (await runtime.enqueue("in_thread", 1, b=2)).result(timeout_s=20) == 3


async def test_many_jobs_are_accepted_together_or_not_at_all(store: Place, world: World) -> None:
    queues = [QueueSettings("default", capacity=10)]
    async with world.runtime(store, queues=queues) as runtime:
        runtime.pause("default")
        with pytest.raises(QueueFull):
            await runtime.enqueue_many(call("note", n) for n in range(11))
        assert (await runtime.list_jobs()).jobs == []
        jobs = await runtime.enqueue_many(call("note", n) for n in range(10))
        with pytest.raises(QueueFull):
            await runtime.enqueue("note", 10)
        runtime.resume("default")
        assert [await job.result(timeout_s=20) for job in jobs] == list(range(10))


@pytest.mark.differs(redis="only a capacity in QueueSettings counts")
async def test_the_capacity_of_queues_that_do_not_say_otherwise_counts(
    store: Place, world: World
) -> None:
    async with world.runtime(store, queue_capacity=2) as runtime:
        runtime.pause("default")
        await runtime.enqueue_many(call("note", n) for n in range(2))
        with pytest.raises(QueueFull):
            await runtime.enqueue("note", 2)


@pytest.mark.differs(redis="E9: capacity is counted for each priority by itself")
async def test_a_capacity_is_that_of_the_queue(store: Place, world: World) -> None:
    queues = [QueueSettings("default", capacity=3)]
    async with world.runtime(store, queues=queues) as runtime:
        runtime.pause("default")
        for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
            await runtime.options(priority=priority).enqueue("note", 1)
        with pytest.raises(QueueFull):
            await runtime.options(priority=Priority.CRITICAL).enqueue("note", 2)


@pytest.mark.differs(redis="resize changes the figure that is shown, and not what is counted")
async def test_a_capacity_can_be_changed(store: Place, world: World) -> None:
    queues = [QueueSettings("default", capacity=1)]
    async with world.runtime(store, queues=queues) as runtime:
        runtime.pause("default")
        await runtime.enqueue("note", 1)
        runtime.resize("default", capacity=2)
        await runtime.enqueue("note", 2)
        with pytest.raises(QueueFull):
            await runtime.enqueue("note", 3)


async def test_the_same_id_is_the_same_job(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        named = runtime.options(job_id="only-one")
        first, *others = await asyncio.gather(*(named.enqueue("note", 5) for _ in range(20)))
        assert {job.id for job in others} == {first.id}
        assert [job.is_new for job in (first, *others)].count(True) == 1
        assert await first.result(timeout_s=20) == 5
        assert (await named.enqueue("note", 5)).is_new is False
        with pytest.raises(JobConflict):
            await named.enqueue("note", 6)
        with pytest.raises(JobConflict):
            await named.enqueue("post", "5")
    assert world.order == [5]


async def test_an_id_that_is_in_use_is_a_conflict_while_its_job_waits(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime:
        runtime.pause("default")
        named = runtime.options(job_id="mine")
        await named.enqueue("note", 1)
        with pytest.raises(JobConflict):
            await named.enqueue("note", 2)
        assert (await named.enqueue("note", 1)).is_new is False


async def test_what_names_one_job_cannot_be_given_for_many(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        with pytest.raises(InvalidJob, match="job_id names one job"):
            await runtime.options(job_id="one").enqueue_many([call("note", 1), call("note", 2)])


async def test_what_is_wrong_is_refused_and_never_runs(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        with pytest.raises(UnknownTask):
            await runtime.enqueue("nothing")
        with pytest.raises(UnknownQueue):
            await runtime.options(queue="nowhere").enqueue("note", 1)
        with pytest.raises(InvalidArguments):
            await runtime.enqueue("note")
        with pytest.raises(InvalidJob):
            await runtime.options(job_id="not an id").enqueue("note", 1)
        with pytest.raises(InvalidArguments):
            await runtime.enqueue_many([call("note", 1), call("note")])
        await runtime.join()
        assert (await runtime.list_jobs()).jobs == []
    assert world.order == []


async def test_nothing_is_accepted_after_a_stop_has_begun(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        runtime.quiet()
        with pytest.raises(ShuttingDown):
            await runtime.enqueue("note", 1)
        with pytest.raises(ShuttingDown):
            await runtime.enqueue_many([call("note", 1)])


@pytest.mark.differs(redis="it is an InvalidJob there")
async def test_an_argument_that_a_store_cannot_hold_is_refused(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        with pytest.raises(InvalidArguments, match="cannot be encoded"):
            await runtime.options(job_id="odd").enqueue("note", object())


async def test_nothing_stays_behind_an_argument_that_was_refused(
    durable: Place, world: World
) -> None:
    async with world.runtime(durable) as runtime:
        with pytest.raises((InvalidArguments, InvalidJob)):
            await runtime.options(job_id="odd").enqueue("note", object())
        with pytest.raises((InvalidArguments, InvalidJob)):
            await runtime.enqueue_many([call("note", 1), call("note", object())])
        with pytest.raises(UnknownJob):
            await runtime.find("odd")
        await runtime.join()
        assert (await runtime.options(job_id="odd").enqueue("note", 2)).is_new
        await runtime.join()
    assert world.order == [2]


async def test_arguments_that_are_too_large_are_refused(durable: Place, world: World) -> None:
    async with world.runtime(durable) as runtime:
        with pytest.raises(PayloadTooLarge):
            await runtime.enqueue("note", "x" * (1 << 20))


async def test_each_job_of_a_batch_is_accepted_or_refused_on_its_own(
    store: Place, world: World
) -> None:
    queues = [QueueSettings("default", capacity=3)]
    async with world.runtime(store, queues=queues) as runtime, served(runtime) as worker:
        runtime.pause("default")
        batch = [
            {"task": "note", "args": [1]},
            {"task": "nothing"},
            {"task": "note", "args": [2], "id": "two"},
            {"task": "note", "args": [2], "id": "two"},
            {"task": "note", "args": [3], "id": "two"},
            {"task": "note", "args": [4]},
            {"task": "note", "args": [5]},
        ]
        answers = (await worker.ask("POST", "/v1/jobs/batch", batch)).document
        assert [answer["status"] for answer in answers] == [202, 404, 202, 202, 409, 202, 503]
        runtime.resume("default")
        await runtime.join()
    assert sorted(world.order) == [1, 2, 4]


@pytest.mark.differs(redis="jobs of one millisecond run in the order of their ids")
async def test_jobs_run_in_the_order_they_came_in_whatever_their_ids(
    store: Place, world: World
) -> None:
    ids = [f"{letter}{n}" for letter in "zyx" for n in range(9, -1, -1)]
    async with world.runtime(store, concurrency=1) as runtime, served(runtime) as worker:
        runtime.pause("default")
        batch = [{"task": "note", "args": [job_id], "id": job_id} for job_id in ids]
        await worker.ask("POST", "/v1/jobs/batch", batch)
        runtime.resume("default")
        await runtime.join()
    assert world.order == ids


async def test_priorities_and_order_hold(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        runtime.pause("default")
        for priority in (Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.HIGH):
            for n in range(3):
                options = runtime.options(priority=priority)
                await options.enqueue("note", f"{priority.name}{n}")
        runtime.resume("default")
        await runtime.join()
    names = ("CRITICAL", "HIGH", "NORMAL", "LOW")
    assert world.order == [f"{name}{n}" for name in names for n in range(3)]


async def test_a_job_runs_when_it_is_due(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        later = await runtime.options(delay_s=0.2).enqueue("note", "later")
        at = datetime.now(UTC) + timedelta(seconds=0.1)
        sooner = await runtime.options(at=at).enqueue("note", "sooner")
        now = await runtime.enqueue("note", "now")
        assert (await runtime.find(later.id)).state is State.SCHEDULED
        for job in (now, sooner, later):
            await job.result(timeout_s=20)
    assert world.order == ["now", "sooner", "later"]


async def test_a_job_whose_time_has_passed_does_not_run(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        runtime.pause("default")
        job = await runtime.options(expires_s=0.05).enqueue("note", 1)
        await asyncio.sleep(0.06)
        runtime.resume("default")
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout_s=20)
        assert caught.value.reason == Reason.EXPIRED
    assert world.order == []


async def test_a_queue_has_slots_and_a_pause_of_its_own(store: Place, world: World) -> None:
    queues = [QueueSettings("mail", concurrency=1)]
    async with world.runtime(store, queues=queues) as runtime:
        runtime.pause("mail")
        posted = await runtime.enqueue("post", "a")
        moved = await runtime.options(queue="mail").enqueue("note", "b")
        assert await (await runtime.enqueue("note", "c")).result(timeout_s=20) == "c"
        assert {posted.state, moved.state} == {State.QUEUED}
        runtime.resume("mail")
        assert [await job.result(timeout_s=20) for job in (posted, moved)] == ["a", "b"]
    assert world.order == ["c", "a", "b"]


async def test_a_queue_never_runs_more_at_a_time_than_it_may(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=2) as runtime:
        jobs = [await runtime.enqueue("hold") for _ in range(5)]
        await eventually(lambda: len(world.runs) >= 2)
        info = runtime.queue_info("default")
        assert (info.running, info.concurrency) == (2, 2)
        world.gate.set()
        assert [await job.result(timeout_s=20) for job in jobs] == [job.id for job in jobs]
    assert set(world.runs.values()) == {1}
