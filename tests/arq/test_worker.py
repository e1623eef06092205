"""An arq settings class run by our worker, with our arq-like client."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

from tests.support.arq_worker import Ctx, add, enqueue, working
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime import task
from worker_runtime.arq import (
    ArqRedis,
    JobStatus,
    RedisSettings,
    ResultNotFound,
    Retry,
    SerializationError,
    create_pool,
    cron,
    func,
)
from worker_runtime.arq.worker import ArqWorker


async def test_functions_get_arqs_context_where_they_can_take_it(server: RedisServer) -> None:
    seen: Ctx = {}

    async def with_ctx(ctx: Ctx) -> str:
        seen.update(ctx)
        return "with"

    async def without() -> str:
        return "without"

    async def only_named(*, a: int) -> int:
        return a

    async def startup(ctx: Ctx) -> None:
        ctx["mine"] = "kept"

    named = [
        func(with_ctx, name="with_ctx"),
        func(without, name="without"),
        func(only_named, name="only_named"),
    ]
    async with working(server, functions=named, on_startup=startup) as (_, pool):
        job = await enqueue(pool, "with_ctx")
        assert await job.result(timeout=5) == "with"
        assert (seen["mine"], seen["job_id"], seen["job_try"]) == ("kept", job.job_id, 1)
        assert isinstance(seen["redis"], ArqRedis)
        assert isinstance(seen["enqueue_time"], datetime)
        assert seen["enqueue_time"].tzinfo is not None
        assert abs(seen["score"] - time.time() * 1000) < 60_000
        assert await (await enqueue(pool, "without")).result(timeout=5) == "without"
        assert await (await enqueue(pool, "only_named", a=3)).result(timeout=5) == 3


async def test_hooks_run_at_arqs_moments(server: RedisServer) -> None:
    """The job's key is there when a job starts, its result only after it is stored."""
    moments: list[tuple[str, bool, bool]] = []

    def hook(name: str) -> Callable[[Ctx], Awaitable[None]]:
        async def record(ctx: Ctx) -> None:
            job_id = ctx.get("job_id", "-")
            has_job = await ctx["redis"].exists(f"arq:job:{job_id}")
            has_result = await ctx["redis"].exists(f"arq:result:{job_id}")
            moments.append((name, bool(has_job), bool(has_result)))
            ctx[name] = True
            if name == "after_job_end":
                assert ctx["on_job_start"] is ctx["on_job_end"] is True  # one ctx for all

        return record

    names = ("on_startup", "on_shutdown", "on_job_start", "on_job_end", "after_job_end")
    hooks = {name: hook(name) for name in names}
    async with working(server, functions=[add], **hooks) as (_, pool):
        assert await (await enqueue(pool, "add", 1)).result(timeout=5) == 2
        await eventually(lambda: len(moments) == 4)
    assert moments == [
        ("on_startup", False, False),
        ("on_job_start", True, False),
        ("on_job_end", True, False),
        ("after_job_end", False, True),
        ("on_shutdown", False, False),
    ]


async def test_a_slot_is_not_free_before_the_hooks_have_run(server: RedisServer) -> None:
    order: list[str] = []

    async def note(ctx: Ctx, name: str) -> None:
        order.append(f"run {name}")

    async def after(ctx: Ctx) -> None:
        await asyncio.sleep(0.05)
        order.append("after")

    async with working(
        server, functions=[func(note, name="note")], after_job_end=after, max_jobs=1
    ) as (_, pool):
        for name in ("a", "b"):
            await enqueue(pool, "note", name)
        await eventually(lambda: len(order) == 4)
    assert order == ["run a", "after", "run b", "after"]


async def test_a_hook_that_fails_does_not_cost_the_job(server: RedisServer) -> None:
    async def broken(ctx: Ctx) -> None:
        raise RuntimeError("hook")

    async with working(server, functions=[add], on_job_end=broken, after_job_end=broken) as (
        _,
        pool,
    ):
        assert await (await enqueue(pool, "add", 1)).result(timeout=5) == 2
        assert await (await enqueue(pool, "add", 2)).result(timeout=5) == 3


async def test_retry_defers_and_counts_tries(server: RedisServer) -> None:
    starts: list[float] = []

    async def again(ctx: Ctx) -> int:
        starts.append(time.monotonic())
        if ctx["job_try"] < 3:
            raise Retry(defer=0.1)
        tries: int = ctx["job_try"]
        return tries

    async with working(server, functions=[func(again, name="again")]) as (worker, pool):
        assert await (await enqueue(pool, "again")).result(timeout=5) == 3
        assert starts[1] - starts[0] >= 0.09
        await eventually(lambda: worker.store.ends.completed == 1)
        assert (
            worker.store.ends.completed,
            worker.store.ends.retried,
            worker.store.ends.failed,
        ) == (1, 2, 0)


async def test_too_many_retries_fail_with_arqs_words(server: RedisServer) -> None:
    async def forever(ctx: Ctx) -> None:
        raise Retry()

    async with working(server, functions=[func(forever, name="forever", max_tries=2)]) as (_, pool):
        job = await enqueue(pool, "forever")
        with pytest.raises(Exception, match="max 2 retries exceeded"):
            await job.result(timeout=5)
        info = await job.result_info()
        assert (info.success, info.job_try) == (False, 3)


async def test_an_ordinary_exception_is_not_retried(server: RedisServer) -> None:
    async def broken(ctx: Ctx) -> None:
        raise KeyError("gone")

    async with working(server, functions=[func(broken, name="broken")]) as (_, pool):
        job = await enqueue(pool, "broken")
        with pytest.raises(KeyError, match="gone"):
            await job.result(timeout=5)
        assert (await job.result_info()).job_try == 1


async def test_a_timeout_is_a_failure(server: RedisServer) -> None:
    async def slow(ctx: Ctx) -> None:
        await asyncio.sleep(10)

    async with working(server, functions=[func(slow, name="slow", timeout=0.1)]) as (_, pool):
        job = await enqueue(pool, "slow")
        with pytest.raises(TimeoutError):
            await job.result(timeout=5)
        assert (await job.result_info()).success is False


async def test_abort_reaches_running_and_deferred_jobs(server: RedisServer) -> None:
    running = asyncio.Event()

    async def slow(ctx: Ctx) -> None:
        running.set()
        await asyncio.sleep(30)

    async with working(server, functions=[func(slow, name="slow")], allow_abort_jobs=True) as (
        _,
        pool,
    ):
        job = await enqueue(pool, "slow")
        await asyncio.wait_for(running.wait(), 5)
        assert await job.status() is JobStatus.in_progress
        assert await job.abort(timeout=5)
        deferred = await enqueue(pool, "slow", _defer_by=60)
        assert await deferred.status() is JobStatus.deferred
        assert await deferred.abort(timeout=5)
        assert await pool.zcard("arq:abort") == 0


async def test_a_stale_abort_does_not_kill_a_later_job(server: RedisServer) -> None:
    async with working(server, functions=[add], allow_abort_jobs=True) as (_, pool):
        await pool.zadd("arq:abort", {"again": time.time() * 1000 - 5_000})
        job = await enqueue(pool, "add", 1, _job_id="again")
        assert await job.result(timeout=5) == 2


async def test_results_are_kept_as_long_as_said(server: RedisServer) -> None:
    functions = [
        func(add, name="hour"),
        func(add, name="minute", keep_result=60),
        func(add, name="never", keep_result=0),
        func(add, name="forever", keep_result_forever=True),
    ]
    async with working(server, functions=functions) as (worker, pool):
        jobs = {f.name: await enqueue(pool, f.name, 1) for f in functions}
        await eventually(lambda: worker.store.ends.completed == 4 and not worker.store.leases.held)
        ttl = {name: await pool.ttl(f"arq:result:{j.job_id}") for name, j in jobs.items()}
        assert 3500 < ttl["hour"] <= 3600
        assert 50 < ttl["minute"] <= 60
        assert (ttl["never"], ttl["forever"]) == (-2, -1)
        with pytest.raises(ResultNotFound):
            await jobs["never"].result(timeout=1)


async def test_unserializable_results_fail_with_arqs_words(server: RedisServer) -> None:
    async def strange(ctx: Ctx) -> Any:
        return lambda: None

    async with working(server, functions=[func(strange, name="strange")]) as (_, pool):
        with pytest.raises(SerializationError, match="unable to serialize result"):
            await (await enqueue(pool, "strange")).result(timeout=5)


async def test_custom_serializers(server: RedisServer) -> None:
    async with working(
        server,
        functions=[add],
        job_serializer=msgspec.msgpack.encode,
        job_deserializer=msgspec.msgpack.decode,
    ) as (_, pool):
        job = await enqueue(pool, "add", 1, b=5)
        assert await job.result(timeout=5) == 6
        raw: Any = await pool.get(f"arq:result:{job.job_id}")
        assert msgspec.msgpack.decode(raw)["r"] == 6


async def test_a_dangerous_pickle_becomes_a_dead_letter(server: RedisServer) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (print, ("owned",))

    async with working(server, functions=[add]) as (worker, pool):
        job = await enqueue(pool, "add", Attack())
        with pytest.raises(Exception, match="unable to deserialize job"):
            await job.result(timeout=5)
        untyped: Any = pool  # redis-py types this call in two ways, by release
        dead = await untyped.hgetall(f"worker-runtime:dead:{job.job_id}")
        assert b"builtins.print is not plain data" in dead[b"reason"]
        await pool.delete(f"arq:result:{job.job_id}")
        found = await worker.runtime.find(job.job_id)
        assert "builtins.print" in (found.info().error or "")


async def test_unsafe_pickle_opens_it(server: RedisServer) -> None:
    async def kind(ctx: Ctx, value: Any) -> str:
        return type(value).__name__

    async with working(server, functions=[func(kind, name="kind")], unsafe_pickle=True) as (
        _,
        pool,
    ):
        assert await (await enqueue(pool, "kind", ValueError("x"))).result(timeout=5) == (
            "ValueError"
        )


async def test_jobs_of_unknown_functions_are_left_for_others(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def mine(ctx: Ctx) -> str:
        return "other worker"

    async with working(server, functions=[add]) as (_, pool):
        stranger = await enqueue(pool, "mine")
        known = await enqueue(pool, "add", 1)
        assert await known.result(timeout=5) == 2
        assert await stranger.status() is JobStatus.queued
        assert await pool.get(f"arq:retry:{stranger.job_id}") is None
        assert "left for other workers" in caplog.text
        async with working(server, functions=[func(mine, name="mine")]) as (_, _other):
            assert await stranger.result(timeout=5) == "other worker"


async def test_unknown_functions_may_fail_as_in_arq(server: RedisServer) -> None:
    async with working(server, functions=[add], unknown_functions="fail") as (_, pool):
        with pytest.raises(Exception, match="function 'nope' not found"):
            await (await enqueue(pool, "nope")).result(timeout=5)


async def test_a_job_whose_key_expired_fails_with_arqs_words(server: RedisServer) -> None:
    with server.client() as client:
        client.zadd("arq:queue", {"ghost": 1})
    async with working(server, functions=[add]) as (_, pool):
        await eventually(lambda: pool.exists("arq:result:ghost"))
        with pytest.raises(Exception, match="job expired"):
            await (await enqueue(pool, "add", 1, _job_id="x")).__class__("ghost", pool).result()


async def test_burst_runs_what_waits_and_ends(server: RedisServer) -> None:
    redis = RedisSettings(port=server.port)
    pool = await create_pool(redis)
    for i in range(20):
        await enqueue(pool, "add", i)
    await enqueue(pool, "add", 99, _defer_by=0.2)
    worker = ArqWorker({"functions": [add], "redis_settings": redis}, burst=True)
    async with worker:
        await asyncio.wait_for(worker.drain(), 10)
    assert worker.store.ends.completed == 21
    assert await pool.zcard("arq:queue") == 0
    await pool.aclose()


async def test_max_burst_jobs(server: RedisServer) -> None:
    redis = RedisSettings(port=server.port)
    pool = await create_pool(redis)
    for i in range(5):
        await enqueue(pool, "add", i)
    settings = {"functions": [add], "redis_settings": redis, "max_burst_jobs": 3}
    async with ArqWorker(settings, burst=True) as worker:
        await asyncio.wait_for(worker.drain(), 10)
    assert worker.store.ends.completed == 3
    assert await pool.zcard("arq:queue") == 2
    await pool.aclose()


async def test_cron_runs_once_for_two_workers(server: RedisServer) -> None:
    ran: list[str] = []

    async def tick(ctx: Ctx) -> None:
        ran.append(ctx["job_id"])

    jobs = [cron(tick, name="cron:tick", second=set(range(60)), run_at_startup=True)]
    async with (
        working(server, cron_jobs=jobs) as (first, pool),
        working(server, cron_jobs=jobs) as (second, _),
    ):
        await eventually(lambda: len(ran) >= 4, 8)
        started_up = sum(1 for job_id in set(ran) if not job_id.endswith("123"))
        assert started_up <= 2  # each worker's own start is a moment of its own
        assert len(ran) == len(set(ran))
        held = await pool.ttl(f"arq:in-progress:{ran[0]}")
        assert 30 < held <= 60
        assert first.store.ends.failed == second.store.ends.failed == 0


async def test_the_health_key_beats_while_every_slot_is_busy(server: RedisServer) -> None:
    async def slow(ctx: Ctx) -> None:
        await asyncio.sleep(30)

    key = "arq:queue:health-check"
    async with working(
        server, functions=[func(slow, name="slow")], max_jobs=1, health_check_interval=0.2
    ) as (_, pool):
        await enqueue(pool, "slow")
        await enqueue(pool, "slow")

        async def shows_saturation() -> bool:
            return b"j_ongoing=1 queued=2" in (await pool.get(key) or b"")

        await eventually(shows_saturation)
        await pool.delete(key)
        await eventually(lambda: pool.exists(key))
    with server.client() as client:
        assert client.get(key) is None


async def test_tasks_in_threads_and_processes(server: RedisServer) -> None:
    async with working(server, functions=[in_thread, in_process, fails_in_process]) as (_, pool):
        assert await (await enqueue(pool, "in_thread", 2)).result(timeout=20) == 4
        assert await (await enqueue(pool, "in_process", 3)).result(timeout=20) != os.getpid()
        with pytest.raises(LookupError, match="nothing here"):
            await (await enqueue(pool, "fails_in_process")).result(timeout=20)


@task(run_in="process")
def in_process(value: int) -> int:
    return os.getpid()


@task(run_in="process")
def fails_in_process() -> None:
    raise LookupError("nothing here")


@task(run_in="thread")
def in_thread(value: int) -> int:
    return value * 2


async def test_log_lines_are_arqs(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ctx: Ctx) -> None:
        raise ValueError("why")

    caplog.set_level(logging.INFO, logger="arq.worker")
    async with working(server, functions=[add, func(broken, name="broken")]) as (worker, pool):
        good = await enqueue(pool, "add", 1, b=2)
        bad = await enqueue(pool, "broken")
        await eventually(lambda: worker.store.ends.completed + worker.store.ends.failed == 2)
    text = caplog.text
    assert "Starting worker for 2 functions: add, broken" in text
    assert "redis_version=" in text
    assert f"→ {good.job_id}:add(1, b=2)" in text
    assert f"← {good.job_id}:add ● 3" in text
    assert f"! {bad.job_id}:broken failed, ValueError: why" in text
