"""A job that has not begun by its expiry ends then; one that has begun has none any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import worker_runtime.engine.expiry
from tests.support.clocks import StillClock, assembled_with
from tests.support.helpers import eventually
from tests.support.jobs import make_job
from tests.support.steps import steps_of
from worker_runtime import (
    JobFailed,
    Limit,
    QueueFull,
    Reason,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    task,
)
from worker_runtime.engine.expiry import Expiry
from worker_runtime.engine.finisher import Finisher
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome
from worker_runtime.model.tasks.options import JobOptions

Start = Callable[..., Runtime]

T0 = 1_800_000_000.0


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


class World:
    """A task of which each attempt does what the script says."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.runs = 0
        self.gate = asyncio.Event()

    def runtime(self, url: str = "memory://", **options: Any) -> Runtime:
        @task(retry=Retry(max_attempts=3, delay_s=0.05, jitter=0))
        async def work() -> str:
            self.runs += 1
            step = self.script.pop(0) if self.script else None
            if step is not None:
                raise step
            return "done"

        @task
        async def wait() -> None:
            await self.gate.wait()

        @task(limit=Limit(rate=1, per_s=3600.0))
        async def seldom() -> None: ...

        options.setdefault("settings", Settings())
        return Runtime([work, wait, seldom], store=url, **options)


async def expired(job: Any, within_s: float = 10.0) -> bool:
    await job.wait(timeout_s=within_s)
    return job.job.failure is not None and job.job.failure.reason is Reason.EXPIRED


# Only before the first start


@pytest.mark.parametrize(
    "step",
    [ConnectionError("down"), RunAgain(0.05), RunAgain(0.05, uses_attempt=True)],
    ids=["retry", "again", "again-counted"],
)
async def test_a_job_that_has_begun_does_not_expire(url: str, step: BaseException) -> None:
    """A11."""
    world = World(step)
    async with world.runtime(url) as runtime:
        job = await runtime.options(expires_s=0.04).enqueue("work")
        assert await job.result(timeout_s=10) == "done"
    assert world.runs == 2


@pytest.mark.parametrize("step", [ConnectionError("down"), RunAgain(0.3)], ids=["retry", "again"])
async def test_a_job_that_has_begun_does_not_expire_in_a_later_life(
    tmp_path: Path, step: BaseException
) -> None:
    world = World(step)
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with world.runtime(url) as runtime:
        job = await runtime.options(expires_s=0.1, retry=Retry(delay_s=0.3)).enqueue("work")
        await eventually(lambda: job.state is State.SCHEDULED)
    assert world.runs == 1
    await asyncio.sleep(0.1)  # the expiry itself
    async with world.runtime(url) as runtime:
        assert await (await runtime.find(job.id)).result(timeout_s=10) == "done"


async def test_a_job_that_a_stop_interrupted_does_not_expire(tmp_path: Path) -> None:
    world = World()
    url = f"sqlite:///{tmp_path}/jobs.db"
    runtime = world.runtime(url)
    await runtime.start()
    job = await runtime.options(expires_s=0.2).enqueue("wait")
    await eventually(lambda: job.state is State.RUNNING)
    await runtime.stop(within_s=0)
    await asyncio.sleep(0.2)  # the expiry itself
    world.gate.set()
    async with world.runtime(url) as runtime:
        assert await (await runtime.find(job.id)).wait(timeout_s=10) is State.COMPLETED


async def test_a_job_that_is_retried_on_request_does_not_expire(url: str) -> None:
    world = World()
    async with world.runtime(url) as runtime:
        runtime.pause("default")
        job = await runtime.options(expires_s=0.01).enqueue("work")
        assert await expired(job)
        runtime.resume("default")
        assert await (await runtime.retry(job.id)).result(timeout_s=10) == "done"


# On time, wherever it waits


async def test_an_expired_job_ends_though_no_slot_reaches_it(url: str) -> None:
    """A20: it keeps nobody waiting, and no place."""
    world = World()
    async with world.runtime(url, concurrency=1, queue_capacity=1) as runtime:
        running = await runtime.enqueue("wait")
        await eventually(lambda: running.state is State.RUNNING)
        job = await runtime.options(expires_s=0.05).enqueue("work")
        with pytest.raises(QueueFull):
            await runtime.enqueue("work")
        with pytest.raises(JobFailed, match="waited longer than its deadline"):
            await job.result(timeout_s=10)
        assert runtime.queue_info("default").waiting == 0
        following = await runtime.enqueue("work")
        world.gate.set()
        assert await following.result(timeout_s=10) == "done"
    assert world.runs == 1


async def test_an_expired_job_ends_in_a_queue_that_is_paused_or_limited(url: str) -> None:
    world = World()
    async with world.runtime(url) as runtime:
        await (await runtime.enqueue("seldom")).wait(timeout_s=10)
        limited = await runtime.options(expires_s=0.05, key="a").enqueue("seldom")
        assert await expired(limited)
        runtime.pause("default")
        assert await expired(await runtime.options(expires_s=0.05).enqueue("work"))
        assert runtime.queue_info("default").waiting == 0


async def test_an_expired_job_ends_while_it_is_scheduled_or_held(url: str) -> None:
    world = World()
    async with world.runtime(url) as runtime:
        running = await runtime.enqueue("wait")
        scheduled = await runtime.options(delay_s=60, expires_s=0.05).enqueue("work")
        held = await runtime.options(after=[running], expires_s=0.05).enqueue("work")
        child = await runtime.options(after=[held]).enqueue("work")
        assert await expired(scheduled)
        assert await expired(held)
        assert await child.wait(timeout_s=10) is State.CANCELLED
        assert runtime.queue_info("default").waiting == 0
        world.gate.set()
        await asyncio.wait_for(runtime.join(), 10)
    assert world.runs == 0


async def test_a_job_expires_in_a_later_life(tmp_path: Path) -> None:
    world = World()
    url = f"sqlite:///{tmp_path}/jobs.db"
    runtime = world.runtime(url)
    runtime.pause("default")
    async with runtime:
        early = await runtime.options(expires_s=0.05).enqueue("work")
        late = await runtime.options(expires_s=1.0).enqueue("work")
        parent = await runtime.options(delay_s=600).enqueue("work")
        held = await runtime.options(after=[parent], expires_s=1.0).enqueue("work")
        await runtime.stop(within_s=0)
    runtime = world.runtime(url)
    runtime.pause("default")
    async with runtime:
        for job in (early, late, held):
            assert await expired(await runtime.find(job.id))
    assert world.runs == 0


async def test_a_parked_job_expires(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    world = World()
    runtime = world.runtime(url)
    runtime.pause("default")
    async with runtime:
        job = await runtime.options(expires_s=0.2).enqueue("work")
    async with Runtime([], store=url) as runtime:
        assert await expired(await runtime.find(job.id))


async def test_a_job_that_was_cancelled_or_has_begun_does_not_end_again(url: str) -> None:
    world = World()
    async with world.runtime(url, concurrency=1) as runtime:
        running = await runtime.options(expires_s=0.05).enqueue("wait")
        await eventually(lambda: running.state is State.RUNNING)
        cancelled = await runtime.options(expires_s=0.05).enqueue("work")
        assert await cancelled.cancel()
        last = await runtime.options(expires_s=0.06).enqueue("work")
        assert await expired(last)  # so that the others' time has passed too
        assert (running.state, cancelled.state) == (State.RUNNING, State.CANCELLED)
        world.gate.set()
        assert await running.wait(timeout_s=10) is State.COMPLETED


async def test_the_rate_is_left_to_those_that_live() -> None:
    """A20: what expired has used nothing of a limit."""
    world = World()
    async with world.runtime() as runtime:
        runtime.pause("default")
        gone = [await runtime.options(expires_s=0.02).enqueue("seldom") for _ in range(8)]
        alive = await runtime.enqueue("seldom")
        for job in gone:
            assert await expired(job)
        runtime.resume("default")
        assert await alive.wait(timeout_s=10) is State.COMPLETED


async def test_what_a_blocked_loop_finds_expired_uses_no_limit_either() -> None:
    """The slot is there before the timer."""
    world = World()
    clock = StillClock(T0)
    with assembled_with(clock):
        runtime = world.runtime()
    async with runtime:
        runtime.pause("default")
        gone = [await runtime.options(expires_s=100).enqueue("seldom") for _ in range(3)]
        alive = await runtime.enqueue("seldom")
        clock.at += 101  # no timer of the loop knows
        runtime.resume("default")
        assert await alive.wait(timeout_s=10) is State.COMPLETED
        for job in gone:
            assert await expired(job)


async def test_a_clock_that_is_set_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_runtime.engine.expiry, "_TIMER_MAX_S", 0.01)
    world = World()
    clock = StillClock(T0)
    with assembled_with(clock):
        runtime = world.runtime()
    async with runtime:
        runtime.pause("default")
        job = await runtime.options(expires_s=1000).enqueue("work")
        clock.at += 1001
        assert await expired(job)


# What it costs


class Ends(Finisher):
    """Only writes down which jobs it was told to end."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def apply(
        self, job: Job, outcome: Outcome, now: float, duration_s: float | None = None
    ) -> None:
        self.ended.append(job.id)

    def is_in_transition(self, job: Job) -> bool:
        return False


def expiring(at: float) -> Job:
    return make_job(options=JobOptions(expires_at=at))


async def test_each_job_costs_the_same_however_many_wait() -> None:
    def steps_a_job(count: int) -> float:
        expiry = Expiry(Ends(), StillClock(T0))
        for n in range(count):
            expiry.watch(expiring(T0 + 1000 + n), lambda job: None)

        def come_and_go() -> None:
            for n in range(count):
                job = expiring(T0 + 500 + n)
                expiry.watch(job, lambda job: None)
                if n % 2:
                    expiry.forget(job)
                else:
                    assert job.options is not None
                    assert expiry.begin(job, T0 + 500 + n)

        steps = steps_of(come_and_go, worker_runtime.engine.expiry)
        assert len(expiry._entries) <= 2 * count + 65
        expiry.close()
        return steps / count

    few, many = steps_a_job(100), steps_a_job(3000)
    assert many < few * 1.2


async def test_many_that_expire_at_once_leave_the_loop_to_others() -> None:
    ends, clock = Ends(), StillClock(T0)
    expiry = Expiry(ends, clock)
    jobs = [expiring(T0 + 0.001) for _ in range(1000)]
    for job in jobs:
        expiry.watch(job, lambda job: None)
    clock.at += 1
    most, seen = 0, 0
    while len(ends.ended) < len(jobs):
        await asyncio.sleep(0)
        most, seen = max(most, len(ends.ended) - seen), len(ends.ended)
    assert most <= worker_runtime.engine.expiry._ENDED_PER_TURN
    assert sorted(ends.ended) == sorted(job.id for job in jobs)
    expiry.close()
