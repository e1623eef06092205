"""The client of the native API against real workers, and against answers that get lost."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.support.fleet_worker import serving
from tests.support.helpers import free_port
from worker_runtime import (
    InvalidArguments,
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobFailed,
    Overloaded,
    Priority,
    QueueFull,
    UnknownJob,
    UnknownQueue,
    UnknownTask,
    task,
)
from worker_runtime.client import Client, Retries, WorkerUnreachable
from worker_runtime.client.answers import RequestFailed
from worker_runtime.client.blocking import BlockingClient

IMPATIENT = Retries(attempts=4, delay_s=0.01, delay_max_s=0.05)
ran: list[int] = []
go_on = threading.Event()


class Point(msgspec.Struct):
    x: int
    at: datetime


@task
async def move(point: Point, by: int = 1) -> Point:
    return Point(point.x + by, point.at)


@task(name="renamed")
async def note(number: int) -> int:
    ran.append(number)
    return number


@task
async def fail(text: str) -> None:
    raise ValueError(text)


@task(run_in="thread")
def wait_for_test() -> None:
    assert go_on.wait(10)


@task
async def endless() -> None:
    await asyncio.Event().wait()


TASKS = (move, note, fail, wait_for_test, endless)


@pytest.fixture(autouse=True)
def _waiting() -> Iterator[None]:
    ran.clear()
    go_on.clear()
    yield
    go_on.set()


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[Client]:
    options: dict[str, Any] = {"dialects": (), "stop_within_s": 0.0, **settings}
    async with (
        serving(*TASKS, **options) as worker,
        Client(worker.url, token=settings.get("token"), retries=IMPATIENT) as client,
    ):
        yield client


async def test_results_come_back_as_the_type_the_task_returns() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    async with served() as client:
        job = await client.enqueue(move, Point(1, at), by=2)
        moved = await job.result(timeout_s=5)
        assert moved == Point(3, at)
        assert await (await client.enqueue(note, 7)).result(timeout_s=5) == 7
        by_name = await client.enqueue("move", {"x": 1, "at": "2026-01-02T00:00:00Z"})
        assert (await by_name.result(timeout_s=5))["x"] == 2
        found = await client.find(job.id)
        assert (await found.refresh()).state == "completed"


async def test_options_and_lists() -> None:
    async with served() as client:
        options = client.options(
            job_id="one", priority=Priority.HIGH, delay_s=60, label="l", timeout_s=None
        )
        job = await options.enqueue(note, 1)
        snapshot = job.snapshot
        assert (job.id, snapshot.priority, snapshot.label) == ("one", "high", "l")
        assert (job.state, snapshot.due_at is not None) == ("scheduled", True)
        again = await options.enqueue(note, 1)
        assert again.snapshot.created_at == snapshot.created_at
        await client.enqueue(note, 2)
        page = await client.list_jobs(task="renamed", limit=1)
        rest = await client.list_jobs(task="renamed", limit=1, cursor=page.cursor)
        assert len(page.jobs) == 1
        assert [found.id for found in rest.jobs] == ["one"]
        assert (await client.queues())[0].name == "default"
        assert (await client.pause("default")).paused is True
        assert (await client.resume("default")).paused is False
        statistics = await client.statistics()
        assert (statistics.jobs.accepted, statistics.queues[0].scheduled) == (2, 1)
        assert (statistics.store.kind, statistics.store.unavailable) == ("memory", None)
        names = {described["name"] for described in await client.tasks()}
        assert names == {"move", "renamed", "fail", "wait_for_test", "endless"}


async def test_failures_and_cancels_are_the_errors_of_an_embedded_runtime() -> None:
    async with served() as client:
        failed = await client.enqueue(fail, "no luck")
        with pytest.raises(JobFailed, match="no luck") as error:
            await failed.result(timeout_s=5)
        assert (error.value.reason, error.value.error_type) == ("error", "ValueError")
        job = await client.enqueue(endless)
        with pytest.raises(TimeoutError, match=r"within 0.05 s"):
            await job.result(timeout_s=0.05)
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result(timeout_s=5)
        assert (await client.retry(job.id)).state in ("queued", "running")
        with pytest.raises(InvalidTransition):
            await client.retry(job.id)


async def test_refusals_are_the_errors_of_an_embedded_runtime() -> None:
    async with served() as client:
        with pytest.raises(UnknownTask, match="nothing"):
            await client.enqueue("nothing")
        with pytest.raises(InvalidArguments, match="number"):
            await client.enqueue("renamed", number="x")
        with pytest.raises(InvalidArguments, match="cannot be encoded"):
            await client.enqueue("renamed", object())
        with pytest.raises(UnknownQueue, match="nowhere"):
            await client.options(queue="nowhere").enqueue(note, 1)
        with pytest.raises(UnknownQueue, match="nowhere"):
            await client.pause("nowhere")
        with pytest.raises(UnknownJob, match="nobody"):
            await client.find("nobody")
        await client.options(job_id="one").enqueue(note, 1)
        with pytest.raises(JobConflict):
            await client.options(job_id="one").enqueue(note, 2)


async def test_a_full_queue_is_tried_again_and_then_told() -> None:
    async with served(concurrency=1, queue_capacity=1) as client:
        await client.enqueue(wait_for_test)
        await client.enqueue(note, 1)
        with pytest.raises(QueueFull) as full:
            await client.enqueue(note, 2)
        assert full.value.position == 2
        waiting = asyncio.ensure_future(client.enqueue(note, 3))
        await asyncio.sleep(0.02)
        go_on.set()
        await (await waiting).result(timeout_s=5)
    assert ran == [1, 3]


async def test_a_token_is_sent() -> None:
    async with served(token="secret") as client:
        await (await client.enqueue(note, 1)).result(timeout_s=5)
        stranger = Client(client._base.removesuffix("/v1"), retries=IMPATIENT)
        async with stranger:
            with pytest.raises(RequestFailed, match="401"):
                await stranger.enqueue(note, 2)
    assert ran == [1]


async def test_a_lost_answer_does_not_run_the_job_twice() -> None:
    """The first answer is lost with its connection, the second comes too late."""
    forwarded = 0
    async with serving(*TASKS, dialects=()) as worker:

        async def forward(request: web.Request) -> web.StreamResponse:
            nonlocal forwarded
            body = await request.read()
            async with worker.http.request(
                request.method, f"{worker.url}{request.path_qs}", data=body, headers=request.headers
            ) as answer:
                data = await answer.read()
            forwarded += 1
            if forwarded == 1:
                assert request.transport is not None
                request.transport.abort()
            if forwarded == 2:
                await asyncio.sleep(5)
            return web.Response(body=data, status=answer.status, content_type="application/json")

        async with (
            between(forward) as url,
            Client(url, timeout_s=0.3, retries=IMPATIENT) as client,
        ):
            job = await client.enqueue(note, 1)
            assert await job.result(timeout_s=5) == 1
    assert (ran, forwarded >= 3) == ([1], True)


@asynccontextmanager
async def between(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_retry_after_is_obeyed_within_the_clients_own_bound() -> None:
    asked: list[float] = []

    async def busy(request: web.Request) -> web.StreamResponse:
        asked.append(asyncio.get_running_loop().time())
        problem = {"code": "overloaded", "detail": "CPU is at 99 %"}
        return web.json_response(problem, status=503, headers={"Retry-After": "600"})

    async with between(busy) as url, Client(url, retries=IMPATIENT) as client:
        with pytest.raises(Exception, match="CPU is at 99 %"):
            await client.enqueue("renamed", 1)
    assert len(asked) == IMPATIENT.attempts
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert all(wait >= 0.045 for wait in waits)


async def test_a_job_is_not_offered_again_after_its_own_deadline() -> None:
    asked = 0

    async def busy(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        problem = {"code": "overloaded", "detail": "the job would wait 9.0 s, and may 0.5 s"}
        return web.json_response(problem, status=503, headers={"Retry-After": "1"})

    async with between(busy) as url, Client(url) as client:
        with pytest.raises(Overloaded, match="would wait"):
            await client.options(expires_s=0.5).enqueue("renamed", 1)
    assert asked == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id": 5}'])
async def test_whoever_answers_nonsense_is_no_worker(body: bytes) -> None:
    async def nonsense(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async with between(nonsense) as url, Client(url, retries=IMPATIENT) as client:
        with pytest.raises(WorkerUnreachable, match="not a worker's"):
            await client.enqueue("renamed", 1)


async def test_nobody_there() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}", retries=IMPATIENT) as client:
        with pytest.raises(WorkerUnreachable, match="POST http"):
            await client.enqueue("renamed", 1)


async def test_the_blocking_client_is_the_same_one_for_threads() -> None:
    async with serving(*TASKS, dialects=()) as worker:

        def script() -> tuple[int, str]:
            with BlockingClient(worker.url) as blocking:
                job = blocking.run(blocking.client.enqueue(note, 4))
                with pytest.raises(UnknownTask):
                    blocking.run(blocking.client.enqueue("nothing"))
                number = blocking.run(job.result(timeout_s=5))
                assert blocking.run(blocking.client.statistics()).jobs.completed == 1
                return number, threading.current_thread().name

        number, _ = await asyncio.get_running_loop().run_in_executor(None, script)
    assert number == 4
    names = {thread.name for thread in threading.enumerate()}
    assert "worker-runtime-client" not in names


async def test_run_refuses_to_wait_for_itself() -> None:
    with BlockingClient("http://127.0.0.1:9") as blocking:

        async def inside() -> None:
            blocking.run(asyncio.sleep(0))

        with pytest.raises(RuntimeError, match="await instead"):
            blocking.run(inside())


async def test_what_is_not_said_about_a_job_is_not_sent() -> None:
    sent: list[Any] = []

    async def read(request: web.Request) -> web.StreamResponse:
        sent.append(await request.json())
        return web.json_response({"code": "unknown_task", "detail": "no"}, status=404)

    async with between(read) as url, Client(url, retries=IMPATIENT) as client:
        with pytest.raises(UnknownTask):
            await client.options(job_id="one", timeout_s=None).enqueue("renamed", 1)
    assert sent == [{"task": "renamed", "args": [1], "kwargs": {}, "id": "one", "timeout_s": None}]
