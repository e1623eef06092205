"""A Runtime on Redis with our own client: the promises of the store, through the public door."""

from __future__ import annotations

import asyncio
import pickle
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime import (
    ConfigurationError,
    InvalidJob,
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobContext,
    JobFailed,
    Priority,
    QueueFull,
    QueueSettings,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    StoreUnavailable,
    UnknownJob,
    call,
    task,
)
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.stores.redis.location import RedisLocation
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.shared import SharedSetup


class Point(msgspec.Struct):
    x: int
    at: datetime


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task
async def shift(point: Point, by: UUID) -> Point:
    assert isinstance(point, Point)
    assert isinstance(by, UUID)
    return Point(point.x + 1, point.at)


@task
async def fail(text: str) -> None:
    raise ValueError(text)


@task(retry=Retry(max_attempts=3, delay_s=0.01))
async def fail_twice(ctx: JobContext) -> int:
    if ctx.attempt < 3:
        raise RuntimeError("not yet")
    return ctx.attempt


@task(retry=Retry(max_attempts=2, delay_s=0.01))
async def always_fails() -> None:
    raise RuntimeError("never")


@task
async def hang(ctx: JobContext) -> None:
    ctx.report(1, 4, step="waiting")
    await asyncio.Event().wait()


@task
def in_thread(ctx: JobContext) -> str:
    return threading.current_thread().name


@task
async def postpone(ctx: JobContext) -> int:
    postponed.append(ctx.attempt)
    if len(postponed) < 3:
        raise RunAgain(0.01)
    return ctx.attempt


postponed: list[int] = []
TASKS = [add, shift, fail, fail_twice, always_fails, hang, in_thread, postpone]


async def _running(runtime: Runtime, job_id: str) -> None:
    async def is_running() -> bool:
        return (await runtime.job(job_id)).state is State.RUNNING

    await eventually(is_running)


async def test_a_job_runs_and_its_result_comes_back(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.enqueue(add, 1, b=2)
        assert await job.result(timeout_s=5) == 3
        found = await runtime.find(job.id)
        assert found.state is State.COMPLETED
        assert await found.result() == 3
        assert found.info().attempt == 1


async def test_arguments_and_results_keep_their_types(server: RedisServer) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    for serializer in ("pickle", "msgpack", "json"):
        url = f"{server.url}?serializer={serializer}"
        async with Runtime(TASKS, store=url) as runtime:
            job = await runtime.enqueue(shift, Point(1, at), UUID(int=5))
            assert await job.result(timeout_s=5) == Point(2, at)


async def test_one_process_enqueues_and_another_works(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as client:
        client.pause("default")
        async with Runtime(TASKS, store=server.url) as worker:
            job = await client.enqueue(add, 4)
            assert await job.result(timeout_s=5) == 5
            await eventually(lambda: worker.tasks[0].tally.completed == 1)
            failed = await client.enqueue(fail, "so")
            with pytest.raises(JobFailed, match="ValueError: so"):
                await failed.result(timeout_s=5)


async def test_a_failure_keeps_its_words(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.enqueue(fail, "bad")
        await job.wait(timeout_s=5)
        info = (await runtime.find(job.id)).info()
        assert (info.state, info.reason, info.error_type, info.error) == (
            State.FAILED,
            "error",
            "ValueError",
            "bad",
        )


async def test_retries_count_tries_in_redis(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.enqueue(fail_twice)
        assert await job.result(timeout_s=5) == 3
        failing = await runtime.enqueue(always_fails)
        with pytest.raises(JobFailed, match="never"):
            await failing.result(timeout_s=5)
        assert (await runtime.find(failing.id)).info().attempt == 2


async def test_running_again_on_request_uses_no_try(server: RedisServer) -> None:
    postponed.clear()
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.enqueue(postpone)
        assert await job.result(timeout_s=5) == 1
    assert postponed == [1, 1, 1]


async def test_a_sync_task_runs_in_a_thread(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.enqueue(in_thread)
        assert await job.result(timeout_s=5) != threading.current_thread().name


async def test_cancelling_a_waiting_job_ends_it(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.options(delay_s=60).enqueue(add, 1)
        assert (await runtime.find(job.id)).state is State.SCHEDULED
        assert await runtime.cancel(job.id)
        with pytest.raises(JobCancelled):
            await job.result(timeout_s=5)
        assert not await runtime.cancel(job.id)
        found = (await runtime.find(job.id)).job
        assert (found.attempt, found.started_at) == (0, None), "it never ran"
    with server.client() as client:
        assert client.zcard("arq:queue") == 0


async def test_cancelling_reaches_another_process(server: RedisServer) -> None:
    async with (
        Runtime(TASKS, store=server.url) as worker,
        Runtime(TASKS, store=server.url) as client,
    ):
        client.pause("default")
        job = await client.enqueue(hang)
        await _running(client, job.id)
        assert await client.cancel(job.id)
        with pytest.raises(JobCancelled):
            await job.result(timeout_s=5)
        assert worker.queue_info("default").running == 0


async def test_progress_is_seen_from_another_process(server: RedisServer) -> None:
    async with (
        Runtime(TASKS, store=server.url),
        Runtime(TASKS, store=server.url) as client,
    ):
        client.pause("default")
        job = await client.enqueue(hang)

        async def progress() -> Any:
            return (await client.find(job.id)).info().progress

        shown = await eventually(progress)
        assert (shown.percentage, shown.step) == (25.0, "waiting")
        await client.cancel(job.id)


async def test_the_same_id_is_the_same_job(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        first = await runtime.options(job_id="once").enqueue(add, 1)
        assert await first.result(timeout_s=5) == 2
        again = await runtime.options(job_id="once").enqueue(add, 1)
        assert not again.is_new
        assert await again.result() == 2
        with pytest.raises(JobConflict):
            await runtime.options(job_id="once").enqueue(add, 2)


async def test_retry_runs_an_ended_job_again(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        job = await runtime.enqueue(fail, "first")
        await job.wait(timeout_s=5)
        again = await runtime.retry(job.id)

        async def ended_anew() -> bool:
            found = await runtime.job(job.id)
            return found.is_ended and found is not job.job

        await eventually(ended_anew)
        assert again.id == job.id
        done = await runtime.enqueue(add, 1)
        await done.result(timeout_s=5)
        with pytest.raises(InvalidTransition):
            await runtime.retry(done.id)


async def test_jobs_are_listed_newest_first_in_pages(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        ids = []
        for i in range(5):
            job = await runtime.enqueue(add, i)
            await job.result(timeout_s=5)
            ids.append(job.id)
            await asyncio.sleep(0.002)  # an order of its own: jobs of one millisecond tie by id
        waiting = await runtime.options(delay_s=60).enqueue(add, 9)
        page = await runtime.list_jobs(limit=3)
        assert [info.id for info in page.jobs] == [waiting.id, *ids[:2:-1]]
        rest = await runtime.list_jobs(limit=10, cursor=page.cursor)
        assert [info.id for info in rest.jobs] == ids[2::-1]
        assert rest.cursor is None
        scheduled = await runtime.list_jobs(state=State.SCHEDULED)
        assert [info.id for info in scheduled.jobs] == [waiting.id]


async def test_an_unknown_job_is_unknown(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        with pytest.raises(UnknownJob):
            await runtime.find("nobody")


async def test_priorities_are_lines_served_in_order(server: RedisServer) -> None:
    order: list[str] = []

    @task
    async def note(name: str) -> None:
        order.append(name)

    async with Runtime([note], store=server.url, concurrency=1) as runtime:
        runtime.pause("default")
        for name, priority in (
            ("low", Priority.LOW),
            ("normal", Priority.NORMAL),
            ("critical", Priority.CRITICAL),
            ("high", Priority.HIGH),
        ):
            await runtime.options(priority=priority).enqueue(note, name)
        runtime.resume("default")
        await runtime.join()
    assert order == ["critical", "high", "normal", "low"]


async def test_a_configured_capacity_holds_for_the_whole_fleet(server: RedisServer) -> None:
    queues = [QueueSettings("default", capacity=2)]
    async with Runtime(TASKS, store=server.url, queues=queues) as runtime:
        runtime.pause("default")
        await runtime.enqueue_many([call(add, 1), call(add, 2)])
        with pytest.raises(QueueFull):
            await runtime.enqueue(add, 3)
    with server.client() as client:
        assert client.zcard("arq:queue") == 2


async def test_many_jobs_are_accepted_or_none(server: RedisServer) -> None:
    queues = [QueueSettings("default", capacity=2)]
    async with Runtime(TASKS, store=server.url, queues=queues) as runtime:
        runtime.pause("default")
        with pytest.raises(QueueFull):
            await runtime.enqueue_many([call(add, i) for i in range(3)])
    with server.client() as client:
        assert client.keys("arq:*") == [b"arq:queue:health-check"] or not client.zcard("arq:queue")


async def test_what_started_is_finished_by_another_after_a_stop(server: RedisServer) -> None:
    """A shutdown gives running jobs back and uses up no try; so do those that were only claimed."""
    async with Runtime(TASKS, store=server.url, concurrency=1) as first:
        job = await first.enqueue(hang)
        waiting = await first.enqueue(add, 1)
        await _running(first, job.id)
        await first.stop(0)
    with server.client() as client:
        assert client.get(f"arq:retry:{job.id}") is None
        assert client.exists(f"arq:in-progress:{job.id}", f"arq:in-progress:{waiting.id}") == 0
    async with Runtime(TASKS, store=server.url, concurrency=2) as second:
        await _running(second, job.id)
        assert (await second.job(job.id)).attempt == 1
        await second.cancel(job.id)


async def test_expired_jobs_do_not_run(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        runtime.pause("default")
        job = await runtime.options(expires_s=0.05).enqueue(add, 1)
        await asyncio.sleep(0.06)
        runtime.resume("default")
        with pytest.raises(JobFailed, match="expired"):
            await job.result(timeout_s=5)


@pytest.mark.parametrize(
    "step",
    [RuntimeError("down"), RunAgain(0.2), RunAgain(0.2, uses_attempt=True)],
    ids=["retry", "again", "again-counted"],
)
async def test_a_job_that_has_begun_does_not_expire(server: RedisServer, step: Exception) -> None:
    """A11."""
    steps = [step]

    @task(retry=Retry(max_attempts=2, delay_s=0.2, jitter=0))
    async def once_more() -> str:
        if steps:
            raise steps.pop()
        return "done"

    async with Runtime([once_more], store=server.url) as runtime:
        job = await runtime.options(job_id="a", expires_s=0.15).enqueue(once_more)
        assert await job.result(timeout_s=5) == "done"
    with server.client() as client:
        assert client.keys("worker-runtime:begun:*") == []  # it goes with the job


async def test_a_job_that_a_stop_gave_back_does_not_expire(server: RedisServer) -> None:
    gate = asyncio.Event()

    @task
    async def wait() -> str:
        await gate.wait()
        return "done"

    first = Runtime([wait], store=server.url)
    await first.start()
    job = await first.options(expires_s=0.2).enqueue(wait)
    await _running(first, job.id)
    await first.stop(within_s=0)
    await asyncio.sleep(0.2)  # the expiry itself
    gate.set()
    async with Runtime([wait], store=server.url) as second:
        assert await (await second.find(job.id)).result(timeout_s=5) == "done"


async def test_arguments_that_are_not_plain_are_refused(server: RedisServer) -> None:
    @task
    async def anything(value: Any) -> None: ...

    async with Runtime([anything], store=server.url) as runtime:
        with pytest.raises(InvalidJob, match="cannot be stored"):
            await runtime.enqueue(anything, object())


async def test_a_redis_that_is_not_there_is_refused_by_name() -> None:
    location = RedisLocation(host="127.0.0.1", port=1, conn_retries=0)
    runtime = Runtime(TASKS, store=SharedSetup(RedisStore(location)))
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1"):
        await runtime.start()


def test_what_cannot_work_is_refused_by_name() -> None:
    queues = [QueueSettings("default", aging_s=5)]
    with pytest.raises(ConfigurationError, match="aging_s"):
        Runtime(TASKS, store="redis://localhost", queues=queues)
    with pytest.raises(ConfigurationError, match="serializer"):
        Runtime(TASKS, store="redis://localhost?serializer=xml")


async def test_what_cannot_be_asked_of_redis_is_refused_by_name(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        first = await runtime.enqueue(add, 1)
        waiting = runtime.options(after=[first])
        with pytest.raises(InvalidJob, match="after does not work with a Redis store"):
            await waiting.enqueue(add, 1)
        with pytest.raises(InvalidJob, match="after does not work with a Redis store"):
            await waiting.enqueue_many([call(add, 2)])
        with pytest.raises(InvalidJob, match="unique_key does not work with a Redis store"):
            await runtime.options(unique_key="one").enqueue(add, 1)
        with pytest.raises(InvalidJob, match="chains and groups do not work"):
            await runtime.chain(call(add, 1), call(add, 2))
        with pytest.raises(ConfigurationError, match="needs a store in a file"):
            async with runtime.transaction():
                pass
        with pytest.raises(InvalidTransition, match="forgets ended jobs by itself"):
            await first.result(timeout_s=10)
            await runtime.delete(first.id)


async def test_enqueue_says_when_redis_is_away(own_server: Any) -> None:
    server = own_server()
    async with Runtime(TASKS, store=server.url, settings=Settings(stop_within_s=0)) as runtime:
        server.kill()
        with pytest.raises(StoreUnavailable):
            await runtime.enqueue(add, 1)
        server.start()
        job = await runtime.enqueue(add, 1)
        assert await job.result(timeout_s=5) == 2


async def test_the_payload_on_redis_is_a_plain_arq_pickle(server: RedisServer) -> None:
    async with Runtime(TASKS, store=server.url) as runtime:
        runtime.pause("default")
        job = await runtime.options(label="mine").enqueue(add, 1, b=2)
    with server.client() as client:
        raw = client.get(f"arq:job:{job.id}")
    assert isinstance(raw, bytes)
    payload = pickle.loads(raw)
    assert (payload["f"], payload["a"], payload["k"], payload["x"]) == (
        "add",
        (1,),
        {"b": 2},
        {"label": "mine"},
    )


async def test_a_call_that_a_door_shows_as_it_came_is_kept_to_the_end_and_after(
    server: RedisServer,
) -> None:
    sent = '{"function": "add", "more": 1}'
    options = EnqueueOptions(overrides=JobOptions(sent=sent), must_encode=True)
    async with Runtime(TASKS, store=server.url) as runtime:
        done = await runtime.doorway.enqueue_with(options, "add", (1,))
        lost = await runtime.doorway.enqueue_with(options, "fail", ("so",))
        for handle in (done, lost):
            await handle.wait(timeout_s=5)
    async with Runtime(TASKS, store=server.url) as runtime:
        for job_id in (done.id, lost.id):
            job = await runtime.job(job_id)
            assert job.is_ended
            assert job.options is not None
            assert job.options.sent == sent
        assert (await runtime.job(lost.id)).failure == lost.job.failure
