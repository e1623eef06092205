"""A runtime goes by the clock that it was assembled with, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.clocks import StillClock, assembled_with
from tests.support.helpers import eventually
from worker_runtime import JobContext, Reason, Retry, Runtime, Settings, State, UnknownJob, task

START = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
Make = Callable[..., Runtime]


@pytest.fixture
def clock() -> StillClock:
    return StillClock(START.timestamp())


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: StillClock) -> Make:
    store = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"

    def made(*tasks: Callable[..., object], **options: object) -> Runtime:
        with assembled_with(clock):
            return Runtime(tasks, store=store, **options)  # type: ignore[arg-type]

    return made


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def pass_by(clock: StillClock, seconds: float) -> None:
    clock.at += seconds
    clock.adjust()


async def test_jobs_are_stamped_with_it(make: Make, clock: StillClock) -> None:
    async def work(ctx: JobContext) -> None:
        pass_by(clock, 5)
        ctx.report(1, 2)
        ctx.record_metric("loss", 0.5)
        pass_by(clock, 5)

    async with make(work) as runtime:
        assert runtime.started_at == START.timestamp()
        runtime.pause("default")
        handle = await runtime.enqueue(work)
        pass_by(clock, 30)
        runtime.resume("default")
        await handle.result(timeout_s=5)
        job = await runtime.inspect(handle.id)
        assert (job.created_at, job.started_at, job.ended_at) == (START, after(30), after(40))
        assert job.progress is not None
        record = await runtime.job(handle.id)
        assert record.activity is not None
        assert record.activity.progress is not None
        at = (record.activity.progress.at, record.activity.metrics[0].at)
        assert at == (after(35).timestamp(), after(35).timestamp())


async def test_what_waits_expires_becomes_due_and_is_tried_again_by_it(
    make: Make, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_runtime.engine.dispatcher._TIMER_MAX_S", 0.01)

    async def work() -> None:
        pass

    @task(retry=Retry(max_attempts=2, delay_s=600, jitter=0.0))
    async def failing() -> None:
        raise ValueError("once more")

    async with make(work, failing) as runtime:
        runtime.pause("default")
        expiring = await runtime.options(expires_s=60).enqueue(work)
        patient = await runtime.options(expires_s=62).enqueue(work)
        pass_by(clock, 61)
        runtime.resume("default")
        assert await expiring.wait(timeout_s=5) is State.FAILED
        assert await patient.wait(timeout_s=5) is State.COMPLETED
        expired = await runtime.inspect(expiring.id)
        assert (expired.reason, expired.ended_at) == (Reason.EXPIRED, after(61))

        later = await runtime.options(delay_s=3600).enqueue(work)
        again = await runtime.enqueue(failing)
        assert (await runtime.inspect(later.id)).due_at == after(61 + 3600)
        assert await eventually(lambda: again.state is State.SCHEDULED)
        pass_by(clock, 3600)
        assert await later.wait(timeout_s=5) is State.COMPLETED
        assert await again.wait(timeout_s=5) is State.FAILED
        assert (await runtime.inspect(later.id)).ended_at == after(61 + 3600)


async def test_the_history_is_kept_as_long_as_it_says(clock: StillClock) -> None:
    async def work() -> None:
        pass

    with assembled_with(clock):
        made = Runtime([work], settings=Settings(history_ttl_s=100))
    async with made as runtime:
        handle = await runtime.enqueue(work)
        await handle.result(timeout_s=5)
        pass_by(clock, 99)
        await runtime.find(handle.id)
        pass_by(clock, 2)
        with pytest.raises(UnknownJob):
            await runtime.find(handle.id)
