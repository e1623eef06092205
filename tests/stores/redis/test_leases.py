"""A lease that ran out while its worker lives: Redis stood still, was away, or evicted the key.

What runs goes on, what has ended is written, and nothing runs twice that need not.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from tests.support.arq_worker import Ctx, enqueue, working
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime.arq import ArqRedis, RedisSettings, Retry, create_pool, func
from worker_runtime.arq.worker import ArqWorker
from worker_runtime.stores.redis.leases import Lease, LeaseKeeper
from worker_runtime.stores.redis.location import RedisLocation
from worker_runtime.stores.redis.outbox import Finish

pytestmark = pytest.mark.timeout(90)
# A claim is late after a quarter of it, which a busy machine may take for an answer without any
# outage; a worker whose last claim was late sets the next one no limit.
LEASE_S = 6.0


class Runs:
    """Counts how often each job ran; jobs with `waits` end when `release` is set."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.release = asyncio.Event()

    def settings(self, port: int) -> dict[str, Any]:
        async def run(ctx: Ctx, waits: bool) -> str:
            self.started[ctx["job_id"]] += 1
            if waits:
                await self.release.wait()
            return "done"

        return {
            "functions": [func(run, name="run")],
            "redis_settings": RedisSettings(port=port),
            "lease_s": LEASE_S,
        }


async def _lapse(pool: ArqRedis, job_id: str) -> None:
    """Evict the lease of a running job, and see it taken anew."""
    assert await pool.delete(f"arq:in-progress:{job_id}") == 1

    async def is_held() -> bool:
        return bool(await pool.exists(f"arq:in-progress:{job_id}"))

    await eventually(is_held, 10)


@pytest.mark.parametrize("outage", ["freeze", "restart"])
async def test_a_pause_longer_than_a_lease_runs_nothing_twice(own_server: Any, outage: str) -> None:
    server: RedisServer = own_server(appendonly=True)
    runs = Runs()
    pool = await create_pool(RedisSettings(port=server.port))
    async with ArqWorker(runs.settings(server.port)), ArqWorker(runs.settings(server.port)):
        jobs = [await enqueue(pool, "run", True) for _ in range(12)]
        await eventually(lambda: len(runs.started) == 12)
        if outage == "freeze":
            server.freeze()
        else:
            server.kill()
        await asyncio.sleep(LEASE_S / 2)
        runs.release.set()  # they end while Redis cannot be told
        await asyncio.sleep(LEASE_S * 2)
        if outage == "freeze":
            server.thaw()
        else:
            server.start()
        assert [await job.result(timeout=30) for job in jobs] == ["done"] * 12
    await pool.aclose()
    assert runs.started == Counter({job.job_id: 1 for job in jobs})


async def test_a_worker_keeps_a_running_job_whose_lease_it_lost_to_itself(
    server: RedisServer,
) -> None:
    runs = Runs()
    settings = runs.settings(server.port) | {"lease_s": 60}  # no renewal comes first
    async with working(server, **settings) as (_, pool):
        job = await enqueue(pool, "run", True)
        await eventually(lambda: bool(runs.started))
        await _lapse(pool, job.job_id)
        runs.release.set()
        assert await job.result(timeout=10) == "done"
        assert await pool.zcard("arq:queue") == 0
    assert runs.started == Counter({job.job_id: 1})


async def test_an_end_on_its_way_outlives_its_lease(server: RedisServer) -> None:
    runs = Runs()
    may_write = asyncio.Event()
    settings = runs.settings(server.port) | {"lease_s": 60}
    async with working(server, **settings) as (worker, pool):
        write = worker.store.outbox._write

        async def late_write(batch: list[Finish]) -> list[int]:
            await may_write.wait()
            return await write(batch)

        worker.store.outbox._write = late_write  # type: ignore[method-assign]
        job = await enqueue(pool, "run", False)
        await eventually(lambda: len(worker.store.outbox) == 1)
        await _lapse(pool, job.job_id)
        await asyncio.sleep(0)
        may_write.set()
        assert await job.result(timeout=10) == "done"
        assert await pool.zcard("arq:queue") == 0
    assert runs.started == Counter({job.job_id: 1})


async def test_a_retry_claimed_before_its_end_is_known_runs_once(server: RedisServer) -> None:
    """The answer to the finish arrives after the claim that followed it."""
    tries: list[int] = []

    async def again(ctx: Ctx) -> int:
        tries.append(ctx["job_try"])
        if ctx["job_try"] < 4:
            raise Retry
        return len(tries)

    async with working(server, functions=[func(again, name="again")]) as (worker, pool):
        write = worker.store.outbox._write

        async def slow_answer(batch: list[Finish]) -> list[int]:
            answers = await write(batch)
            claimed = worker.store.claimed_count
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline and len(tries) < 4:
                if worker.store.claimed_count > claimed:
                    break
                await asyncio.sleep(0.01)
            return answers

        worker.store.outbox._write = slow_answer  # type: ignore[method-assign]
        job = await enqueue(pool, "again")
        assert await job.result(timeout=20) == 4
        assert not list(worker.runtime.doorway.jobs_here())
        assert not worker.store.leases.held
    assert tries == [1, 2, 3, 4]


async def test_a_lease_whose_end_is_on_its_way_is_not_called_lost(server: RedisServer) -> None:
    lost: list[str] = []
    keeper = LeaseKeeper(
        RedisLocation.from_url(f"redis://127.0.0.1:{server.port}"),
        lease_s=0.4,
        on_lost=lambda leases: lost.extend(lease.job_id for lease in leases),
    )
    for job_id, is_ending in (("ending", True), ("taken", False)):  # Redis knows neither
        keeper.held[job_id] = Lease(job_id, "arq:queue", "token", 1, 0, is_ending=is_ending)
    keeper.start()
    try:
        await eventually(lambda: lost.count("taken") >= 2, 20)
    finally:
        await asyncio.get_running_loop().run_in_executor(None, keeper.stop)
    assert set(lost) == {"taken"}
