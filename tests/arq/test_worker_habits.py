"""What code written for arq relies on without arq's manual saying so."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import types
from typing import Any

import pytest

from tests.support.arq_worker import Ctx, add, enqueue, working
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime import State
from worker_runtime.arq import Job, JobExecutionFailed, ResultNotFound, Retry, func
from worker_runtime.sharing import claimer


class Owned(Exception):
    """An exception of the application's own."""


async def owned(ctx: Ctx) -> None:
    raise Owned("mine")


async def asks_for_owned(ctx: Ctx) -> str:
    job = await enqueue(ctx["redis"], "owned")
    try:
        await job.result(timeout=5)
    except Exception as error:
        return type(error).__name__
    return "no error"


@pytest.mark.parametrize(("unsafe_pickle", "seen"), [(True, "Owned"), (False, "Foreign")])
async def test_a_task_reads_results_as_its_worker_reads_jobs(
    server: RedisServer, unsafe_pickle: bool, seen: str
) -> None:
    functions = [owned, asks_for_owned]
    async with working(server, functions=functions, unsafe_pickle=unsafe_pickle) as (_, pool):
        assert await (await enqueue(pool, "asks_for_owned")).result(timeout=10) == seen


async def test_names_may_be_any_text(server: RedisServer) -> None:
    queue, name, job_id = "{mail}/große queue", "send it! /x", "user 7/ü:*"
    functions = [func(add, name=name)]
    async with working(server, functions=functions, queue_name=queue) as (worker, pool):
        job = await enqueue(pool, name, 1, _queue_name=queue, _job_id=job_id)
        assert await job.result(timeout=5) == 2
        assert (await worker.runtime.find(job_id)).state is State.COMPLETED


async def test_the_pool_in_a_context_has_the_fleets_serializers(server: RedisServer) -> None:
    def loads(data: bytes) -> Any:
        raise AssertionError("nothing is read here")

    async with working(server, functions=[add], job_deserializer=loads) as (worker, _):
        pool = worker.ctx["redis"]
        assert (pool.job_serializer, pool.job_deserializer) == (None, loads)


async def test_a_settings_context_is_the_one_hooks_get(server: RedisServer) -> None:
    context: Ctx = {"made": "outside"}

    async def startup(ctx: Ctx) -> None:
        ctx["made"] = "inside"

    async with working(server, functions=[add], ctx=context, on_startup=startup):
        assert context["made"] == "inside"


async def test_abort_is_seen_as_often_as_the_queue(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """arq looks for aborts with each poll, and its clients wake nobody."""
    monkeypatch.setattr(claimer, "POLL_MAX_S", 3600.0)
    started = asyncio.Event()

    async def sleep(ctx: Ctx) -> None:
        started.set()
        await asyncio.sleep(60)

    functions = [func(sleep, name="sleep")]
    async with working(server, functions=functions, allow_abort_jobs=True, poll_delay=0.02) as (
        _,
        pool,
    ):
        job = await enqueue(pool, "sleep")
        await started.wait()
        await pool.zadd("arq:abort", {job.job_id: round(time.time() * 1000)})
        with pytest.raises(asyncio.CancelledError):
            await job.result(timeout=10)


async def test_an_abort_by_a_clock_that_is_behind_is_obeyed(server: RedisServer) -> None:
    started = asyncio.Event()

    async def sleep(ctx: Ctx) -> None:
        started.set()
        await asyncio.sleep(60)

    async with working(server, functions=[func(sleep, name="sleep")], allow_abort_jobs=True) as (
        worker,
        pool,
    ):
        job = await enqueue(pool, "sleep")
        await started.wait()
        behind_ms = round(time.time() * 1000) - 120_000
        worker.store.leases.held[job.job_id].enqueued_ms = behind_ms - 1  # by that same clock
        await pool.zadd("arq:abort", {job.job_id: behind_ms})
        with pytest.raises(asyncio.CancelledError):
            await job.result(timeout=10)


async def test_what_a_job_returns_after_its_stop_counts(server: RedisServer) -> None:
    """As with arq: a job that answers its cancel with a value has ended well."""
    started = asyncio.Event()

    async def tidy(ctx: Ctx) -> str:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "tidied"
        return "slept"

    functions = [func(tidy, name="tidy"), func(tidy, name="short", timeout=0.05)]
    async with working(server, functions=functions, allow_abort_jobs=True) as (_, pool):
        job = await enqueue(pool, "tidy")
        await started.wait()
        assert await job.abort(timeout=10) is False
        assert await job.result(timeout=10) == "tidied"
        assert await (await enqueue(pool, "short")).result(timeout=10) == "tidied"


async def test_a_retry_starts_after_the_hook_of_the_try_before(server: RedisServer) -> None:
    order: list[str] = []

    async def again(ctx: Ctx) -> None:
        if ctx["job_try"] == 1:
            raise Retry

    async def start(ctx: Ctx) -> None:
        order.append(f"start {ctx['job_try']}")

    async def after(ctx: Ctx) -> None:
        await asyncio.sleep(0.2)
        order.append(f"after {ctx['job_try']}")

    async with working(
        server,
        functions=[func(again, name="again")],
        on_job_start=start,
        after_job_end=after,
    ) as (_, pool):
        await enqueue(pool, "again")
        await eventually(lambda: len(order) == 4)
    assert order == ["start 1", "after 1", "start 2", "after 2"]


async def test_hooks_of_interrupted_jobs_run_before_on_shutdown(server: RedisServer) -> None:
    order: list[str] = []
    started = asyncio.Event()

    async def sleep(ctx: Ctx) -> None:
        started.set()
        await asyncio.sleep(60)

    async def after(ctx: Ctx) -> None:
        await asyncio.sleep(0.3)
        order.append("after_job_end")

    async def shutdown(ctx: Ctx) -> None:
        order.append("on_shutdown")

    async with working(
        server,
        functions=[func(sleep, name="sleep")],
        after_job_end=after,
        on_shutdown=shutdown,
    ) as (_, pool):
        await enqueue(pool, "sleep")
        await started.wait()
    assert order == ["after_job_end", "on_shutdown"]


async def test_long_values_are_cut_as_arq_cuts_them(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def echo(ctx: Ctx, text: str) -> str:
        return text

    with caplog.at_level(logging.INFO, "arq.worker"):
        async with working(server, functions=[func(echo, name="echo")]) as (_, pool):
            assert await (await enqueue(pool, "echo", "x" * 500)).result(timeout=5) == "x" * 500
    [line] = [r.getMessage() for r in caplog.records if "●" in r.getMessage()]
    assert line.endswith("● '" + "x" * 78 + "…")


@pytest.fixture
def loaded_arq(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `arq.jobs` as it is where the application has imported it."""
    jobs: Any = types.ModuleType("arq.jobs")

    class ArqsResultNotFound(RuntimeError):
        pass

    jobs.ResultNotFound = ArqsResultNotFound
    monkeypatch.setitem(sys.modules, "arq.jobs", jobs)
    return jobs


async def test_arqs_own_exceptions_catch_ours(server: RedisServer, loaded_arq: Any) -> None:
    async with working(server, functions=[add]) as (_, pool):
        with pytest.raises(loaded_arq.ResultNotFound):
            await Job("none", pool).result(timeout=1)
        with pytest.raises(ResultNotFound):
            await Job("none", pool).result(timeout=1)


async def test_what_arqs_worker_failed_is_caught_by_name(server: RedisServer) -> None:
    async def again(ctx: Ctx) -> None:
        raise Retry

    functions = [func(again, name="again", max_tries=1)]
    async with working(server, functions=functions) as (_, pool):
        job = await enqueue(pool, "again")
        with pytest.raises(JobExecutionFailed, match="max 1 retries exceeded"):
            await job.result(timeout=10)
