"""Whatever a task, a caller or a store does, an accepted job reaches one end that says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.whole.contract import executor_tasks as tasks
from worker_runtime import (
    JobConflict,
    JobContext,
    JobFailed,
    QueueFull,
    Reason,
    Retry,
    Runtime,
    Settings,
    ShuttingDown,
    State,
    StoreUnavailable,
    task,
)

STORES = ("memory", "sqlite", "redis")
REFUSALS = (StoreUnavailable, QueueFull, ShuttingDown, JobConflict)


def url_of(name: str, request: pytest.FixtureRequest, directory: Path) -> str:
    if name == "redis":
        url: str = request.getfixturevalue("server").url
        return url
    return "memory://" if name == "memory" else f"sqlite:///{directory}/jobs.db"


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, request, tmp_path)


def runtime_of(functions: Any, url: str, **options: Any) -> Runtime:
    return Runtime(functions, store=url, settings=Settings(), **options)


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
    store_url: str, refusal: type[Exception]
) -> None:
    @task
    async def parent() -> None:
        raise refusal("the disk of the store is full")

    async with runtime_of([parent], store_url) as runtime:
        handle = await runtime.enqueue(parent)
        assert await handle.wait(timeout_s=5) is State.FAILED
        await assert_failed(runtime, handle.id, refusal.__name__)


@pytest.mark.parametrize("where", [tasks.fail_in_thread, tasks.fail_in_child])
@pytest.mark.parametrize("kind", ["StoreUnavailable", "QueueFull", "ShuttingDown"])
async def test_a1_a_refusal_that_a_thread_or_a_child_lets_out_is_its_error(
    store_url: str, where: Callable[[str], Any], kind: str
) -> None:
    async with runtime_of([where], store_url) as runtime:
        handle = await runtime.enqueue(where, kind)
        assert await handle.wait(timeout_s=20) is State.FAILED
        await assert_failed(runtime, handle.id, kind)


async def test_a1_a_refusal_that_a_middleware_raises_is_the_attempts_error(store_url: str) -> None:
    async def refuse(ctx: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        raise StoreUnavailable("the store of the middleware")

    @task
    async def work() -> None: ...

    async with runtime_of([work], store_url, middleware=[refuse]) as runtime:
        handle = await runtime.enqueue(work)
        assert await handle.wait(timeout_s=5) is State.FAILED
        await assert_failed(runtime, handle.id, "StoreUnavailable")


async def test_a1_a_refusal_of_what_the_lifespan_made_is_the_tasks_error(store_url: str) -> None:
    async def other_store() -> None:
        raise StoreUnavailable("another store")

    @asynccontextmanager
    async def lifespan(runtime: Runtime) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        yield other_store

    @task
    async def work(ctx: JobContext) -> None:
        await ctx.state()

    async with runtime_of([work], store_url, lifespan=lifespan) as runtime:
        handle = await runtime.enqueue(work)
        assert await handle.wait(timeout_s=5) is State.FAILED
        await assert_failed(runtime, handle.id, "StoreUnavailable")


async def test_a1_a_task_whose_follow_up_is_refused_is_tried_again(store_url: str) -> None:
    @task(retry=Retry(max_attempts=3, delay_s=0.01, jitter=0))
    async def parent(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            raise QueueFull("the queue of the follow-up is full")
        return "told"

    async with runtime_of([parent], store_url) as runtime:
        assert await (await runtime.enqueue(parent)).result(timeout_s=5) == "told"
