"""Workers and Redis are killed while jobs run; the ledger of all jobs must balance afterwards."""

from __future__ import annotations

import asyncio
import random
import subprocess
from typing import Any

from tests.support.arq_env import NEWEST, ask, start_our_worker
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime.arq import RedisSettings, create_pool

JOBS = 240


async def test_nothing_is_lost_and_nothing_overlaps(own_server: Any) -> None:
    """Three workers, one killed at a time and replaced, Redis killed once in between."""
    server: RedisServer = own_server(appendonly=True)
    ids = ask(NEWEST, server.port, "enqueue", "tally", JOBS)
    workers = [start_our_worker(NEWEST, server.port) for _ in range(3)]
    dice = random.Random(6)
    try:
        for left in (200, 140, 80, 40):
            with server.client() as client:
                await eventually(lambda at=left: client.zcard("arq:queue") <= at, 40)  # type: ignore[misc]
            if left == 140:
                server.kill()
                await asyncio.sleep(0.3)
                server.start()
            else:
                victim = workers.pop(dice.randrange(len(workers)))
                _kill(victim)
                workers.append(start_our_worker(NEWEST, server.port))
        with server.client() as client:
            await eventually(lambda: client.zcard("arq:queue") == 0, 40)
            assert client.llen("overlaps") == 0
            assert client.keys("arq:job:*") == client.keys("arq:retry:*") == []
    finally:
        for worker in workers:
            _kill(worker)
    pool = await create_pool(RedisSettings(port=server.port))
    results = {result.job_id: result for result in await pool.all_job_results()}
    await pool.aclose()
    assert set(results) == set(ids), "every accepted job has exactly one result"
    failed = [result for result in results.values() if not result.success]
    # Only a job that talked to Redis while Redis was dead may have failed, and it says so.
    words = [repr(result.result) for result in failed]
    assert all("onnect" in word or "BusyLoading" in word for word in words), words
    with server.client() as client:
        ran = sum(1 for job_id in ids if client.exists(f"ran:{job_id}"))
        assert ran >= JOBS - len(failed)


def _kill(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.communicate()
