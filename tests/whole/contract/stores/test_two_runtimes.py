"""Two runtimes at once on each store that is shared: what one does, the other sees."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.clocks import SetClock, assembled_with
from tests.support.helpers import ROOT, eventually
from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import World
from worker_runtime import (
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobContext,
    JobFailed,
    Priority,
    QueueFull,
    QueueSettings,
    Reason,
    Runtime,
    State,
    UnknownJob,
    cron,
    task,
)


@asynccontextmanager
async def client_and_worker(
    shared: Place, world: World, **options: Any
) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """Two runtimes, the first of which runs nothing."""
    async with (
        world.runtime(shared, **options) as client,
        world.runtime(shared, **options) as worker,
    ):
        for queue in ("default", "mail"):
            client.pause(queue)
        yield client, worker


# Accept


async def test_the_same_id_from_both_is_one_job(shared: Place, world: World) -> None:
    async with world.runtime(shared) as one, world.runtime(shared) as other:
        named = [runtime.options(job_id="only-one") for runtime in (one, other) * 10]
        jobs = await asyncio.gather(*(options.enqueue("note", 5) for options in named))
        assert [job.is_new for job in jobs].count(True) == 1
        assert [await job.result(timeout_s=20) for job in jobs] == [5] * 20
        with pytest.raises(JobConflict):
            await named[0].enqueue("note", 6)
        with pytest.raises(JobConflict):
            await named[1].enqueue("note", 6)
    assert world.order == [5]


async def test_each_job_runs_once_whoever_is_free(shared: Place, world: World) -> None:
    async with (
        world.runtime(shared, concurrency=3) as one,
        world.runtime(shared, concurrency=3) as other,
    ):
        jobs = [await runtime.enqueue("note", n) for n in range(50) for runtime in (one, other)]
        assert [await job.result(timeout_s=20) for job in jobs] == [n // 2 for n in range(100)]
    assert Counter(world.order) == dict.fromkeys(range(50), 2)


async def test_both_work_at_a_time(shared: Place, world: World) -> None:
    async with (
        world.runtime(shared, concurrency=1) as one,
        world.runtime(shared, concurrency=1) as other,
    ):
        jobs = [await one.enqueue("hold") for _ in range(2)]
        await eventually(lambda: len(world.runs) == 2)
        assert [runtime.queue_info("default").running for runtime in (one, other)] == [1, 1]
        world.gate.set()
        await asyncio.gather(*(job.result(timeout_s=20) for job in jobs))
    assert set(world.runs.values()) == {1}


async def test_a_capacity_holds_for_all(shared: Place, world: World) -> None:
    queues = [QueueSettings("default", capacity=2)]
    async with (
        world.runtime(shared, queues=queues) as one,
        world.runtime(shared, queues=queues) as other,
    ):
        for runtime in (one, other):
            runtime.pause("default")
        await one.enqueue("note", 1)
        await other.enqueue("note", 2)
        for runtime in (one, other):
            with pytest.raises(QueueFull):
                await runtime.enqueue("note", 3)


async def test_a_queue_that_one_has_paused_goes_on_in_the_other(
    shared: Place, world: World
) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        assert (client.queue_info("default").paused, worker.queue_info("default").paused) == (
            True,
            False,
        )
        assert await (await client.enqueue("note", 1)).result(timeout_s=20) == 1


async def test_the_most_urgent_of_all_runs_first(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world, concurrency=1) as (client, worker):
        worker.pause("default")
        for runtime, priority in ((client, Priority.LOW), (worker, Priority.NORMAL)) * 2:
            await runtime.options(priority=priority).enqueue("note", priority.name)
        await client.options(priority=Priority.HIGH).enqueue("note", "HIGH")
        worker.resume("default")
        await worker.join()
    assert world.order == ["HIGH", "NORMAL", "NORMAL", "LOW", "LOW"]


# Look


async def test_the_result_is_seen_by_the_other(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        job = await client.enqueue("note", 7)
        assert await job.result(timeout_s=20) == 7
        for runtime in (client, worker):
            found = await runtime.find(job.id)
            assert (found.state, await found.result()) == (State.COMPLETED, 7)
        failed = await client.enqueue("fail", 9)
        for handle in (failed, await worker.find(failed.id)):
            with pytest.raises(JobFailed, match="failure 3") as caught:
                await handle.result(timeout_s=20)
            assert (caught.value.reason, caught.value.error_type) == (Reason.ERROR, "ValueError")


async def test_what_runs_is_shown_to_the_other(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, _):
        job = await client.enqueue("hold")
        await world.running(job.id)
        assert (await client.find(job.id)).state is State.RUNNING
        assert [info.id for info in (await client.list_jobs(state=State.RUNNING)).jobs] == [job.id]

        async def progress() -> Any:
            return (await client.find(job.id)).info().progress

        shown = await eventually(progress)
        assert (shown.percentage, shown.step) == (25.0, "holding")


@pytest.mark.differs(redis="the record of who enqueued it changes only with its end")
async def test_a_handle_shows_what_runs_elsewhere(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, _):
        job = await client.enqueue("hold")
        waiting = asyncio.create_task(job.wait())
        await world.running(job.id)
        try:
            await eventually(lambda: job.state is State.RUNNING, timeout_s=1)
        finally:
            world.gate.set()
            await waiting


@pytest.mark.differs(redis="when it began is known only where it runs")
async def test_the_other_knows_when_a_job_began(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, _):
        job = await client.enqueue("hold")
        await world.running(job.id)
        assert (await client.find(job.id)).info().started_at is not None


async def test_both_list_the_same(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        done = await client.enqueue("note", 1)
        failed = await worker.enqueue("fail", 9)
        await done.wait(timeout_s=20)
        await failed.wait(timeout_s=20)
        running = await client.enqueue("hold")
        await world.running(running.id)
        later = await worker.options(delay_s=60).enqueue("post", "a")
        expected = {
            done.id: (State.COMPLETED, "note"),
            failed.id: (State.FAILED, "fail"),
            running.id: (State.RUNNING, "hold"),
            later.id: (State.SCHEDULED, "post"),
        }
        for runtime in (client, worker):
            page = await runtime.list_jobs()
            assert {info.id: (info.state, info.task) for info in page.jobs} == expected
            first = await runtime.list_jobs(limit=1)
            assert [info.id for info in first.jobs] == [later.id]


@pytest.mark.differs(redis="a job is looked for in the queues of whoever looks")
async def test_who_serves_another_queue_sees_the_job_in_its_own(shared: Place) -> None:
    @task(queue="mail")
    async def post() -> None: ...

    @task
    async def other() -> None: ...

    async with shared.runtime([post]) as one, shared.runtime([other]) as another:
        one.pause("mail")
        job = await one.enqueue("post")
        assert (await another.find(job.id)).info().queue == "mail"
        assert await another.cancel(job.id)


async def test_a_job_that_nobody_knows_is_unknown_to_both(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as both:
        for runtime in both:
            with pytest.raises(UnknownJob):
                await runtime.find("nobody")


# Act


async def test_what_waits_is_cancelled_from_the_other(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        job = await worker.options(delay_s=60).enqueue("note", 1)
        assert await client.cancel(job.id, "not needed")
        with pytest.raises(JobCancelled, match="not needed"):
            await (await worker.find(job.id)).result(timeout_s=20)
        assert await worker.cancel(job.id) is False
    assert world.order == []


async def test_what_runs_is_cancelled_from_the_other(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        job = await client.enqueue("hold")
        await world.running(job.id)
        assert await client.cancel(job.id)
        with pytest.raises(JobCancelled):
            await job.result(timeout_s=20)
        assert (await worker.find(job.id)).state is State.CANCELLED
        assert await client.cancel(job.id) is False


@pytest.mark.differs(redis="who runs it hears of an order, and not why")
async def test_what_is_cancelled_from_the_other_says_why(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, _):
        job = await client.enqueue("hold")
        await world.running(job.id)
        assert await client.cancel(job.id, "not needed")
        with pytest.raises(JobCancelled, match="not needed"):
            await job.result(timeout_s=20)


@pytest.mark.differs(redis="E6: an order from a clock that is behind is older than the job")
async def test_a_cancel_from_a_clock_that_is_behind_counts(shared: Place, world: World) -> None:
    with assembled_with(SetClock(ahead_s=-2.0)):
        behind = world.runtime(shared)
    async with behind as client, world.runtime(shared) as worker:
        client.pause("default")
        job = await worker.enqueue("hold")
        await world.running(job.id)
        assert await client.cancel(job.id)
        try:
            with pytest.raises(JobCancelled):
                await job.result(timeout_s=3)
        finally:
            world.gate.set()


async def test_an_ended_job_is_run_again_by_the_other(shared: Place, world: World) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        job = await worker.enqueue("fail", 4)
        assert await job.wait(timeout_s=20) is State.FAILED
        again = await client.retry(job.id)
        assert await again.result(timeout_s=20) == 2
        outcomes = await asyncio.gather(
            *(runtime.retry(job.id) for runtime in (client, worker)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {InvalidTransition}
    assert world.runs[job.id] == 5


async def test_of_two_who_ask_for_a_job_to_run_again_one_is_refused(
    shared: Place, world: World
) -> None:
    async with client_and_worker(shared, world) as (client, worker):
        job = await worker.enqueue("fail", 3)
        await job.wait(timeout_s=20)
        worker.pause("default")
        outcomes = await asyncio.gather(
            *(runtime.retry(job.id) for runtime in (client, worker)), return_exceptions=True
        )
        assert [isinstance(each, InvalidTransition) for each in outcomes].count(True) == 1
        worker.resume("default")
        await worker.join()
    assert world.runs[job.id] == 4


# On a clock


def ticking(ticks: Counter[str], **policy: Any) -> Any:
    """A task that is due each second, and counts its runs by job."""

    @cron("* * * * * *")
    @task(**policy)
    async def tick(ctx: JobContext) -> None:
        ticks[ctx.job_id] += 1

    return tick


async def test_a_tick_comes_once_for_both(shared: Place) -> None:
    ticks: Counter[str] = Counter()
    tick = ticking(ticks)
    async with shared.runtime([tick]) as one, shared.runtime([tick]) as other:
        await eventually(lambda: len(ticks) >= 3)
        for runtime in (one, other):
            runtime.quiet()
    assert set(ticks.values()) == {1}


@pytest.mark.differs(redis="E10: a tick whose job is forgotten is new to the clock behind it")
async def test_a_tick_comes_once_though_nothing_is_kept_of_it(shared: Place) -> None:
    ticks: Counter[str] = Counter()
    tick = ticking(ticks, result_ttl_s=0)
    with assembled_with(SetClock(ahead_s=-1.5)):
        behind = shared.runtime([tick])
    async with shared.runtime([tick]), behind:
        await eventually(lambda: len(ticks) >= 5)
    assert set(ticks.values()) == {1}


# Gone


@asynccontextmanager
async def to_be_lost(shared: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker in another process, which says what it runs; killed at the end, if not before."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.whole.contract.stores.lost_worker"),
        *(shared.kind.name, str(shared.store)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lose(process: asyncio.subprocess.Process, job_id: str) -> None:
    """Kill the worker once it runs the job."""
    assert process.stdout is not None
    assert await process.stdout.readline() == f"running {job_id}\n".encode()
    process.kill()
    await process.wait()


async def test_a_lost_workers_job_runs_again(shared: Place, world: World) -> None:
    async with world.runtime(shared) as survivor, to_be_lost(shared) as process:
        survivor.pause("default")
        job = await survivor.enqueue("hold")
        await lose(process, job.id)
        world.gate.set()
        survivor.resume("default")
        assert await job.result(timeout_s=20) == job.id
        assert (await survivor.find(job.id)).info().attempt == 2
    assert world.runs[job.id] == 1


async def test_a_lost_workers_job_fails_where_its_task_says_so(shared: Place, world: World) -> None:
    async with world.runtime(shared) as survivor, to_be_lost(shared) as process:
        survivor.pause("default")
        job = await survivor.enqueue("fragile")
        await lose(process, job.id)
        survivor.resume("default")
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout_s=20)
        assert caught.value.reason == Reason.INTERRUPTED
    assert not world.runs


async def test_what_one_leaves_at_its_stop_the_other_does(shared: Place, world: World) -> None:
    async with world.runtime(shared, concurrency=1) as stays:
        stays.pause("default")
        async with world.runtime(shared, concurrency=1) as goes:
            running = await stays.enqueue("hold")
            await world.running(running.id)
            waiting = await goes.enqueue("note", 1)
            await goes.stop(within_s=0)
        world.gate.set()
        stays.resume("default")
        assert await running.result(timeout_s=20) == running.id
        assert await (await stays.find(waiting.id)).result(timeout_s=20) == 1
        assert (await stays.find(running.id)).info().attempt == 1
