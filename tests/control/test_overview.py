"""All figures of a runtime at one moment, and what its store says when it cannot write."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from tests.support.sqlite_stores import Faults, make_store
from worker_runtime import (
    ExecutorStatistics,
    JobFailed,
    JobStatistics,
    QueueSettings,
    QueueStatistics,
    Retry,
    Runtime,
    RuntimeStatistics,
    Settings,
    State,
    StoreStatistics,
    StoreUnavailable,
    task,
)
from worker_runtime.metrics import exposition


@task
async def double(n: int) -> int:
    return 2 * n


@task(retry=Retry(max_attempts=2, delay_s=0.0))
async def fail() -> None:
    raise ValueError("no")


def store_metrics(runtime: Runtime) -> dict[str, float]:
    """What a scrape shows of the store, by the names without their common beginning."""
    prefix, kind = "worker_runtime_store_", runtime.statistics().store.kind
    samples = [
        sample
        for family in text_string_to_metric_families(exposition(runtime).decode())
        for sample in family.samples
        if sample.name.startswith(prefix)
    ]
    assert all(sample.labels == {"store": kind} for sample in samples)
    return {sample.name.removeprefix(prefix): sample.value for sample in samples}


async def test_what_happens_in_a_runtime_is_counted() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    @task(queue="slow")
    async def hold() -> None:
        started.set()
        await release.wait()

    queues = [QueueSettings("slow", concurrency=1, capacity=9)]
    async with Runtime([double, fail, hold], queues=queues, threads=3) as runtime:
        await (await runtime.enqueue(double, 1)).result(timeout_s=5)
        with pytest.raises(JobFailed):
            await (await runtime.enqueue(fail)).result(timeout_s=5)
        await (await runtime.options(delay_s=60).enqueue(double, 2)).cancel()
        running = await runtime.enqueue(hold)
        await started.wait()
        await runtime.enqueue(hold)
        await runtime.options(delay_s=60).enqueue(hold)
        waiter = asyncio.create_task(running.wait(timeout_s=5))
        await eventually(lambda: runtime.statistics().waiters == 1)
        runtime.pause("slow")
        shown = runtime.statistics()
        release.set()
        await waiter
        runtime.quiet()
        assert runtime.statistics().accepting is False

    assert shown.accepting is True
    assert shown.jobs == JobStatistics(
        accepted=6, completed=1, failed=1, cancelled=1, requeued=1, interrupted=0
    )
    slow = next(queue for queue in shown.queues if queue.name == "slow")
    assert slow == QueueStatistics(
        name="slow",
        waiting=2,
        running=1,
        concurrency=1,
        capacity=9,
        paused=True,
        ready=1,
        scheduled=1,
    )
    assert shown.executors["thread"] == ExecutorStatistics(3, 0, 0, 0)
    assert shown.executors["loop"] == ExecutorStatistics(None, None, 0, 0)
    assert (shown.history_count, shown.waiters, shown.abandoned) == (3, 1, 0)
    assert shown.loop_blocked_count == 0
    assert msgspec.json.decode(msgspec.json.encode(shown), type=RuntimeStatistics) == shown


async def test_a_store_in_memory_has_no_figures_and_no_metric_of_them() -> None:
    async with Runtime([double]) as runtime:
        assert runtime.statistics().store == StoreStatistics(kind="memory")
        assert store_metrics(runtime) == {"unavailable": 0}


async def test_a_store_of_another_kind_is_not_a_label_of_its_own(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.kind = "mine"
    async with Runtime([double], store=store) as runtime:
        assert runtime.statistics().store.kind == "mine"
        assert 'worker_runtime_store_unavailable{store="other"} 0' in exposition(runtime).decode()


async def test_a_file_shows_its_commits_and_what_a_full_disk_holds_back(tmp_path: Path) -> None:
    gate, faults = asyncio.Event(), Faults()

    @task
    async def hold() -> str:
        await gate.wait()
        return "done"

    store = make_store(tmp_path, connect=faults.connect)
    async with Runtime([hold], store=store, concurrency=3) as runtime:
        jobs = [await runtime.enqueue(hold) for _ in range(3)]
        await eventually(lambda: all(job.state is State.RUNNING for job in jobs))
        await eventually(lambda: store_metrics(runtime)["last_commit_seconds"] > 0)
        shown = store_metrics(runtime)
        assert shown.keys() == {
            "unavailable",
            "results_held_back",
            "last_commit_seconds",
            "commits_total",
            "rows_total",
            "checkpoints_total",
            "file_bytes",
            "log_bytes",
        }
        assert shown["unavailable"] == shown["results_held_back"] == 0
        assert shown["commits_total"] >= 1
        assert shown["rows_total"] >= 3
        assert shown["log_bytes"] > 0

        faults.error = sqlite3.SQLITE_FULL
        gate.set()
        await eventually(lambda: runtime.statistics().store.unavailable)
        assert runtime.statistics().store.unavailable == "the disk of the store is full"
        await eventually(lambda: runtime.statistics().store.results_held_back == 3)
        shown = store_metrics(runtime)
        assert (shown["unavailable"], shown["results_held_back"]) == (1, 3)
        assert all(job.state is State.RUNNING for job in jobs)

        faults.error = None
        assert [await job.result(timeout_s=5) for job in jobs] == ["done"] * 3
        await eventually(lambda: runtime.statistics().store.unavailable is None)
        shown = store_metrics(runtime)
        assert (shown["unavailable"], shown["results_held_back"]) == (0, 0)


async def test_a_redis_that_is_away_shows_the_results_that_wait_for_it(
    own_server: Callable[..., RedisServer],
) -> None:
    server = own_server(appendonly=True)
    started, gate = asyncio.Event(), asyncio.Event()

    @task
    async def hold() -> str:
        started.set()
        await gate.wait()
        return "done"

    async with Runtime([hold], store=server.url) as runtime:
        job = await runtime.enqueue(hold)
        await started.wait()
        shown = store_metrics(runtime)
        assert shown == {
            "unavailable": 0,
            "results_held_back": 0,
            "leases_held": 1,
            "claimed_total": 1,
            "dead_letters_total": 0,
        }

        server.kill()
        await eventually(lambda: runtime.statistics().store.unavailable)  # an idle worker says it
        assert "claimed" in (runtime.statistics().store.unavailable or "")
        with pytest.raises(StoreUnavailable):
            await runtime.enqueue(hold)
        gate.set()
        await eventually(lambda: "take results" in (runtime.statistics().store.unavailable or ""))
        shown = store_metrics(runtime)
        assert (shown["unavailable"], shown["results_held_back"]) == (1, 1)
        assert shown["leases_held"] == 1

        server.start()
        assert await job.result(timeout_s=20) == "done"
        await eventually(lambda: runtime.statistics().store.unavailable is None)
        shown = store_metrics(runtime)
        assert (shown["results_held_back"], shown["leases_held"]) == (0, 0)


async def test_a_worker_that_claims_nothing_sees_a_redis_go_and_come_back(
    own_server: Callable[..., RedisServer],
) -> None:
    server = own_server()
    settings = Settings(health_check_interval_s=0.05)
    async with Runtime([double], store=server.url, settings=settings) as runtime:
        runtime.pause("default")
        assert runtime.statistics().store.unavailable is None
        server.kill()
        await eventually(lambda: runtime.statistics().store.unavailable)
        server.start()
        await eventually(lambda: runtime.statistics().store.unavailable is None)


async def test_a_payload_that_nobody_can_read_is_a_dead_letter(server: RedisServer) -> None:
    async with Runtime([double], store=server.url) as runtime:
        with server.client() as client:
            client.set("arq:job:garbage", b"no payload")
            client.zadd("arq:queue", {"garbage": 1})
        await eventually(lambda: runtime.statistics().store.dead_letters == 1)
        assert store_metrics(runtime)["dead_letters_total"] == 1
