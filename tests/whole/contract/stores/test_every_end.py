"""Whatever a task, a caller or a store does, an accepted job reaches one end that says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from tests.whole.contract import executor_tasks as tasks
from tests.whole.contract.stores.places import Place
from worker_runtime import (
    JobConflict,
    JobContext,
    JobFailed,
    QueueFull,
    Reason,
    Retry,
    RunAgain,
    Runtime,
    ShuttingDown,
    State,
    StoreUnavailable,
    task,
)
from worker_runtime.model.activity import Counts

REFUSALS = (StoreUnavailable, QueueFull, ShuttingDown, JobConflict)


async def assert_failed(runtime: Runtime, job_id: str, error_type: str) -> None:
    """The job has failed of what its task raised, and may be brought back as any that failed."""
    handle = await runtime.find(job_id)
    with pytest.raises(JobFailed) as caught:
        await handle.result(timeout_s=5)
    assert (caught.value.reason, caught.value.error_type) == (Reason.ERROR, error_type)
    assert await handle.cancel() is False
    again = await runtime.retry(job_id)
    assert await again.wait(timeout_s=5) is State.FAILED
    assert not any(queue.running for queue in runtime.queue_infos())


# A1: what a task lets out is its error, also where it is the refusal of another job.


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a1_a_refusal_that_a_task_lets_out_is_its_error(
    store: Place, refusal: type[Exception]
) -> None:
    @task
    async def parent() -> None:
        raise refusal("the disk of the store is full")

    async with store.runtime([parent]) as runtime:
        handle = await runtime.enqueue(parent)
        assert await handle.wait(timeout_s=5) is State.FAILED
        await assert_failed(runtime, handle.id, refusal.__name__)


@pytest.mark.parametrize("where", [tasks.fail_in_thread, tasks.fail_in_child])
@pytest.mark.parametrize("kind", ["StoreUnavailable", "QueueFull", "ShuttingDown"])
async def test_a1_a_refusal_that_a_thread_or_a_child_lets_out_is_its_error(
    store: Place, where: Callable[[str], Any], kind: str
) -> None:
    async with store.runtime([where]) as runtime:
        handle = await runtime.enqueue(where, kind)
        assert await handle.wait(timeout_s=20) is State.FAILED
        await assert_failed(runtime, handle.id, kind)


async def test_a1_a_refusal_that_a_middleware_raises_is_the_attempts_error(store: Place) -> None:
    async def refuse(ctx: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        raise StoreUnavailable("the store of the middleware")

    @task
    async def work() -> None: ...

    async with store.runtime([work], middleware=[refuse]) as runtime:
        handle = await runtime.enqueue(work)
        assert await handle.wait(timeout_s=5) is State.FAILED
        await assert_failed(runtime, handle.id, "StoreUnavailable")


async def test_a1_a_refusal_of_what_the_lifespan_made_is_the_tasks_error(store: Place) -> None:
    async def other_store() -> None:
        raise StoreUnavailable("another store")

    @asynccontextmanager
    async def lifespan(runtime: Runtime) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        yield other_store

    @task
    async def work(ctx: JobContext) -> None:
        await ctx.state()

    async with store.runtime([work], lifespan=lifespan) as runtime:
        handle = await runtime.enqueue(work)
        assert await handle.wait(timeout_s=5) is State.FAILED
        await assert_failed(runtime, handle.id, "StoreUnavailable")


async def test_a1_a_task_whose_follow_up_is_refused_is_tried_again(store: Place) -> None:
    @task(retry=Retry(max_attempts=3, delay_s=0.01, jitter=0))
    async def parent(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            raise QueueFull("the queue of the follow-up is full")
        return "told"

    async with store.runtime([parent]) as runtime:
        assert await (await runtime.enqueue(parent)).result(timeout_s=5) == "told"


# A3: what a task reports keeps it from no end.

WEI = 20 * 10**18


async def reports(ctx: JobContext) -> int:
    ctx.report(WEI, 50 * 10**18, counts=Counts(items_done=WEI, items_total=WEI))
    ctx.record_metric("wei", WEI)
    return 1


def reports_in_a_thread(ctx: JobContext) -> int:
    ctx.report(WEI, 50 * 10**18, counts=Counts(items_done=WEI, items_total=WEI))
    ctx.record_metric("wei", WEI)
    return 1


@pytest.mark.parametrize("where", [reports, reports_in_a_thread, tasks.report_in_a_child])
async def test_a3_progress_above_64_bits_is_shown_and_the_job_ends(
    store: Place, where: Callable[..., Any]
) -> None:
    async with store.runtime([where]) as runtime:
        handle = await runtime.enqueue(where)
        assert await handle.result(timeout_s=20) == 1
        progress = handle.info().progress
        assert progress is not None
        assert (progress.done, progress.percentage) == (20e18, 40.0)
        assert await handle.cancel() is False
        await runtime.join()


async def test_a3_a_wait_that_is_no_float_is_waited_for(store: Place) -> None:
    """`RunAgain(Decimal(...))`, in the loop and over a child's pipe."""
    runs: list[int] = []

    @task
    async def again() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise RunAgain(Decimal("0.01"))  # type: ignore[arg-type]
        return "done"

    async with store.runtime([again]) as runtime:
        assert await (await runtime.enqueue(again)).result(timeout_s=5) == "done"


# Who waits is told, whichever attempt ends the job.


async def test_who_waits_from_its_first_attempt_on_is_told_of_the_end(store: Place) -> None:
    began, may_fail = asyncio.Event(), asyncio.Event()

    @task(retry=Retry(max_attempts=2, delay_s=0.01, jitter=0))
    async def second_time(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            began.set()
            await may_fail.wait()
            raise ValueError
        return "told"

    async with store.runtime([second_time]) as runtime:
        handle = await runtime.enqueue(second_time)
        await began.wait()
        waits = asyncio.ensure_future(handle.result(timeout_s=5))
        await asyncio.sleep(0)
        may_fail.set()
        assert await waits == "told"
