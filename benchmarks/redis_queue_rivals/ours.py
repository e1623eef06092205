"""worker_runtime on arq's wire: an arq settings class run by our worker, and our client."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from worker_runtime.arq import RedisSettings, create_pool
from worker_runtime.arq_worker import ArqWorker

QUEUE = "arq:queue"


async def noop(ctx: dict[str, object]) -> None:
    pass


async def sleep_10ms(ctx: dict[str, object]) -> None:
    await asyncio.sleep(0.01)


async def note(ctx: dict[str, object], enqueued_at: float) -> float:
    return time.time() - enqueued_at


async def enqueue(port: int, function: str, count: int) -> None:
    pool = await create_pool(RedisSettings(port=port))
    for _ in range(count):
        await pool.enqueue_job(function)
    await pool.aclose()


async def work(port: int, slots: int) -> None:
    worker = ArqWorker(
        {
            "functions": [noop, sleep_10ms, note],
            "redis_settings": RedisSettings(port=port),
            "max_jobs": slots,
            "burst": True,
        }
    )
    async with worker:
        await worker.drain()


async def latencies(port: int, count: int, every_s: float) -> list[float]:
    worker = ArqWorker(
        {"functions": [note], "redis_settings": RedisSettings(port=port), "max_jobs": 10}
    )
    pool = await create_pool(RedisSettings(port=port))
    found = []
    async with worker:
        for _ in range(count):
            job = await pool.enqueue_job("note", time.time())
            assert job is not None
            found.append(await job.result(timeout=5))
            await asyncio.sleep(every_s)
    await pool.aclose()
    return found


if __name__ == "__main__":
    import uvloop

    logging.disable(logging.WARNING)
    verb, port = sys.argv[1], int(sys.argv[2])
    if verb == "enqueue":
        uvloop.run(enqueue(port, sys.argv[3], int(sys.argv[4])))
    elif verb == "work":
        uvloop.run(work(port, int(sys.argv[3])))
    else:
        print(*uvloop.run(latencies(port, int(sys.argv[3]), float(sys.argv[4]))))
