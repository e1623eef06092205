"""What every store promises, seen through the runtime; and what only a durable one can."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from worker_runtime import (
    ConfigurationError,
    InvalidArguments,
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobContext,
    JobFailed,
    Priority,
    QueueFull,
    Reason,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    UnknownJob,
    call,
    task,
)

STORES = {
    "memory": "memory://",
    "sqlite": "sqlite:///{path}/jobs.db",
    "sqlite_os": "sqlite:///{path}/jobs.db?ack=os",
    "sqlite_memory": "sqlite:///{path}/jobs.db?ack=memory",
}
DURABLE = {name: url for name, url in STORES.items() if name != "memory"}

MakeRuntime = Callable[..., Runtime]


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url: str = STORES[request.param]
    return url.format(path=tmp_path)


@pytest.fixture(params=DURABLE)
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return DURABLE[request.param].format(path=tmp_path)


class Colour(enum.Enum):
    RED = "red"


class Order(msgspec.Struct):
    day: date
    colour: Colour


class World:
    """Tasks that write down what they did; one for each test."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.order: list[Any] = []
        self.gate = asyncio.Event()
        self.seen: list[Any] = []

    def tasks(self) -> list[Callable[..., Any]]:
        world = self

        @task
        async def note(value: Any) -> Any:
            world.order.append(value)
            return value

        @task
        async def wait(ctx: JobContext) -> str:
            world.runs[ctx.job_id] += 1
            await world.gate.wait()
            return ctx.job_id

        @task(retry=Retry(max_attempts=3, delay_s=0.001, jitter=0))
        async def fail(ctx: JobContext, times: int) -> int:
            world.runs[ctx.job_id] += 1
            if world.runs[ctx.job_id] <= times:
                raise ValueError(f"failure {world.runs[ctx.job_id]}")
            return ctx.attempt

        @task
        async def again(ctx: JobContext) -> int:
            world.runs[ctx.job_id] += 1
            if world.runs[ctx.job_id] < 3:
                raise RunAgain(0.001)
            return ctx.attempt

        @task
        async def place(order: Order) -> Order:
            world.seen.append(order)
            return order

        @task
        def odd() -> object:
            return object()

        return [note, wait, fail, again, place, odd]

    def runtime(self, url: str, **options: Any) -> Runtime:
        options.setdefault("concurrency", 4)
        options.setdefault("settings", Settings())
        return Runtime(self.tasks(), store=url, **options)


async def test_a_job_runs_once_and_its_result_is_kept(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url) as runtime:
        jobs = [await runtime.enqueue("note", n) for n in range(50)]
        assert [await job.result(timeout_s=5) for job in jobs] == list(range(50))
        found = await runtime.find(jobs[7].id)
        assert (found.state, await found.result()) == (State.COMPLETED, 7)
    assert sorted(world.order) == list(range(50))


async def test_many_jobs_are_accepted_together_or_not_at_all(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url, queue_capacity=10) as runtime:
        runtime.pause("default")
        with pytest.raises(QueueFull):
            await runtime.enqueue_many(call("note", n) for n in range(11))
        jobs = await runtime.enqueue_many(call("note", n) for n in range(10))
        runtime.resume("default")
        assert [await job.result(timeout_s=5) for job in jobs] == list(range(10))


async def test_the_same_id_is_the_same_job(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url) as runtime:
        named = runtime.options(job_id="only-one")
        first, *others = await asyncio.gather(*(named.enqueue("note", 5) for _ in range(20)))
        assert {job.id for job in others} == {first.id}
        assert [job.is_new for job in (first, *others)].count(True) == 1
        assert await first.result(timeout_s=5) == 5
        assert (await named.enqueue("note", 5)).is_new is False
        with pytest.raises(JobConflict):
            await named.enqueue("note", 6)
    assert world.order == [5]


async def test_priorities_and_order_hold(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url, concurrency=1) as runtime:
        runtime.pause("default")
        for priority in (Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.HIGH):
            for n in range(3):
                options = runtime.options(priority=priority)
                await options.enqueue("note", f"{priority.name}{n}")
        runtime.resume("default")
        await runtime.join()
    names = ("CRITICAL", "HIGH", "NORMAL", "LOW")
    assert world.order == [f"{name}{n}" for name in names for n in range(3)]


async def test_a_failing_job_is_tried_again_and_then_fails(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url) as runtime:
        good = await runtime.enqueue("fail", 2)
        bad = await runtime.enqueue("fail", 9)
        assert await good.result(timeout_s=5) == 3
        with pytest.raises(JobFailed, match="failure 3") as caught:
            await bad.result(timeout_s=5)
        assert caught.value.reason == Reason.ERROR
        assert world.runs[bad.id] == 3
        attempts = bad.job.activity.attempts if bad.job.activity else []
        errors = [attempt.failure and attempt.failure.error for attempt in attempts]
        assert errors == ["failure 1", "failure 2"]


async def test_join_waits_for_a_job_that_is_tried_again(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url) as runtime:
        jobs = [await runtime.enqueue("fail", 2) for _ in range(20)]
        await runtime.join()
        assert {job.state for job in jobs} == {State.COMPLETED}


async def test_a_job_that_asks_to_run_again_does(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url) as runtime:
        job = await runtime.enqueue("again")
        assert await job.result(timeout_s=5) == 1  # waiting takes no attempt away
        assert world.runs[job.id] == 3


async def test_runs_that_count_use_up_the_tries(store_url: str) -> None:
    """A26."""
    runs = 0

    @task(retry=Retry(max_attempts=3))
    async def stubborn() -> None:
        nonlocal runs
        runs += 1
        raise RunAgain(0.001, uses_attempt=True)

    async with Runtime([stubborn], store=store_url, settings=Settings()) as runtime:
        job = await runtime.enqueue(stubborn)
        with pytest.raises(JobFailed, match="has used up its tries: 3"):
            await job.result(timeout_s=5)
        assert runs == 3
        await (await runtime.retry(job.id)).wait(timeout_s=5)
        assert runs == 6  # on request it has a fresh budget


async def test_waiting_and_running_jobs_can_be_cancelled(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url, concurrency=1) as runtime:
        running = await runtime.enqueue("wait")
        waiting = await runtime.enqueue("note", 1)
        later = await runtime.options(delay_s=60).enqueue("note", 2)
        for job in (waiting, later, running):
            assert await job.cancel("not needed")
            with pytest.raises(JobCancelled, match="not needed"):
                await job.result(timeout_s=5)
            assert (await runtime.find(job.id)).state is State.CANCELLED
            assert await job.cancel() is False
    assert world.order == []


async def test_a_dead_letter_runs_again_on_request(store_url: str) -> None:
    world = World()
    async with world.runtime(store_url) as runtime:
        job = await runtime.enqueue("fail", 4)
        await job.wait(timeout_s=5)
        assert job.state is State.FAILED
        again = await runtime.retry(job.id)
        assert await again.result(timeout_s=5) == 2
        with pytest.raises(InvalidTransition):
            await runtime.retry(job.id)


async def test_a_result_that_a_store_cannot_hold_fails_the_job(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        job = await runtime.enqueue("odd")
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout_s=5)
        assert caught.value.reason == Reason.UNENCODABLE


async def test_an_argument_that_a_store_cannot_hold_is_refused(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        with pytest.raises(InvalidArguments, match="cannot be encoded"):
            await runtime.options(job_id="odd").enqueue("note", object())
        with pytest.raises(UnknownJob):
            await runtime.find("odd")
        await runtime.join()
    assert world.order == []


async def test_ended_jobs_are_found_after_a_restart(durable_url: str) -> None:
    world = World()
    order = Order(date(2024, 2, 29), Colour.RED)
    async with world.runtime(durable_url) as runtime:
        done = await runtime.enqueue("place", order)
        failed = await runtime.enqueue("fail", 9)
        await runtime.join()
        assert failed.state is State.FAILED
    async with world.runtime(durable_url) as runtime:
        assert await (await runtime.find(done.id)).result() == order
        with pytest.raises(JobFailed, match="failure 3"):
            await (await runtime.find(failed.id)).result()
        same = runtime.options(job_id=done.id)
        assert (await same.enqueue("place", order)).is_new is False
        with pytest.raises(JobConflict):
            await same.enqueue("place", Order(date(2024, 3, 1), Colour.RED))
    assert world.seen == [order]


async def test_a_dead_letter_of_an_earlier_life_runs_again(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        job = await runtime.enqueue("fail", 4)
        await runtime.join()
    async with world.runtime(durable_url) as runtime:
        outcomes = await asyncio.gather(
            *(runtime.retry(job.id) for _ in range(5)), return_exceptions=True
        )
        assert [type(o) for o in outcomes].count(InvalidTransition) == 4
        handle = await runtime.find(job.id)
        assert await handle.result(timeout_s=5) == 2
    assert world.runs[job.id] == 5


async def test_waiting_jobs_come_back_in_order_with_their_types(durable_url: str) -> None:
    world = World()
    orders = [Order(date(2024, 1, day), Colour.RED) for day in range(1, 20)]
    async with world.runtime(durable_url) as runtime:
        runtime.pause("default")
        for order in orders:
            await runtime.enqueue("place", order)
        later = await runtime.options(delay_s=600).enqueue("note", 1)
    async with world.runtime(durable_url, concurrency=1) as runtime:
        handle = await runtime.find(later.id)
        assert handle.state is State.SCHEDULED
        assert await handle.cancel()
        await runtime.join()
    assert world.seen == orders


async def test_an_interrupted_job_runs_again_without_losing_a_try(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        job = await runtime.enqueue("wait")
        while not world.runs[job.id]:
            await asyncio.sleep(0)
        await runtime.stop(within_s=0)
    world.gate.set()
    async with world.runtime(durable_url) as runtime:
        handle = await runtime.find(job.id)
        assert await handle.result(timeout_s=5) == job.id
        assert (handle.job.attempt, handle.job.crashes) == (1, 0)
    assert world.runs[job.id] == 2


async def test_jobs_of_a_task_that_is_gone_are_parked_and_visible(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        runtime.pause("default")
        job = await runtime.enqueue("note", 1)
        other = await runtime.enqueue("note", 2)
    async with Runtime([], store=durable_url, settings=Settings()) as runtime:
        handle = await runtime.find(job.id)
        assert (handle.state, handle.info().task) == (State.QUEUED, "note")
        assert {info.id for info in (await runtime.list_jobs()).jobs} == {job.id, other.id}
        assert await (await runtime.find(other.id)).cancel()
    async with world.runtime(durable_url) as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=5) == 1
    assert world.order == [1]


async def test_a_job_of_a_queue_that_is_gone_runs_in_its_tasks_queue(durable_url: str) -> None:
    world = World()

    def runtime_with(queue: str) -> Runtime:
        @task(queue=queue)
        async def moved(value: int) -> int:
            world.order.append(value)
            return value

        return Runtime([moved], store=durable_url, settings=Settings())

    async with runtime_with("old") as runtime:
        runtime.pause("old")
        job = await runtime.enqueue("moved", 3)
    async with runtime_with("new") as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=5) == 3


async def test_new_jobs_stand_behind_those_of_earlier_lives(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        done = await runtime.enqueue("note", 0)
        await runtime.join()
    async with world.runtime(durable_url) as runtime:
        job = await runtime.enqueue("note", 1)
        assert job.job.order > done.job.order
        await runtime.join()


async def test_a_caller_that_goes_away_leaves_its_job_accepted(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        enqueueing = asyncio.ensure_future(runtime.options(job_id="mine").enqueue("note", 1))
        while "mine" not in runtime.parts.table.jobs:
            await asyncio.sleep(0)
        enqueueing.cancel()
        assert await (await runtime.find("mine")).result(timeout_s=5) == 1
    async with world.runtime(durable_url) as runtime:
        assert (await runtime.find("mine")).state is State.COMPLETED


async def test_dead_letters_of_earlier_lives_are_listed(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        failed = [(await runtime.enqueue("fail", 9)).id for _ in range(3)]
        done = (await runtime.enqueue("note", 1)).id
        await runtime.join()
    async with world.runtime(durable_url) as runtime:
        runtime.pause("default")
        waiting = (await runtime.enqueue("note", 2)).id
        page = await runtime.list_jobs(state=State.FAILED, limit=2)
        assert [job.id for job in page.jobs] == failed[:0:-1]
        page = await runtime.list_jobs(state=State.FAILED, limit=2, cursor=page.cursor)
        assert ([job.id for job in page.jobs], page.cursor) == (failed[:1], None)
        assert (await runtime.list_jobs(state=State.QUEUED)).jobs[0].id == waiting
        everything = [job.id for job in (await runtime.list_jobs()).jobs]
        assert everything == [waiting, done, *reversed(failed)]


async def test_a_job_exists_exactly_when_the_applications_rows_do(durable_url: str) -> None:
    world = World()
    async with world.runtime(durable_url) as runtime:
        async with runtime.transaction() as tx:
            await tx.execute("CREATE TABLE orders (item TEXT)")
            await tx.execute("INSERT INTO orders VALUES (?)", ("tea",))
            job = await tx.enqueue("note", 1)
            named = await tx.enqueue_with(runtime.options(job_id="named").now(), "note", (2,))
            with pytest.raises(UnknownJob):
                await runtime.find(job.id)
        assert (await job.result(timeout_s=5), await named.result(timeout_s=5)) == (1, 2)
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


async def test_a_transaction_needs_a_file() -> None:
    async with World().runtime("memory://") as runtime:
        with pytest.raises(ConfigurationError, match="needs a store in a file"):
            async with runtime.transaction():
                pass
