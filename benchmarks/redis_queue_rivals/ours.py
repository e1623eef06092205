"""worker_runtime: an arq settings class run by our worker, and our client, on arq's wire."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import measure
import uvloop
from measure import COUNT, PORT, SLOTS, VERB, begin, end, picked_up

from worker_runtime.arq import RedisSettings, create_pool
from worker_runtime.arq.worker import ArqWorker

measure.waits_for_writes = True
REDIS = RedisSettings(port=PORT)


async def noop(ctx: dict[str, Any]) -> None:
    begin()
    end()


async def sleep_10ms(ctx: dict[str, Any]) -> None:
    begin()
    await asyncio.sleep(0.01)
    end()


async def note(ctx: dict[str, Any], enqueued_at: float) -> None:
    picked_up(enqueued_at)


async def main() -> None:
    pool = await create_pool(REDIS)
    if VERB.startswith("enqueue"):
        began_at = time.perf_counter()
        for _ in range(COUNT):
            await pool.enqueue_job(VERB.partition(":")[2])
        print(time.perf_counter() - began_at)
        return
    settings = {"functions": [noop, sleep_10ms, note], "redis_settings": REDIS, "max_jobs": SLOTS}
    async with ArqWorker(settings) as worker:
        while VERB == "work":
            if measure.all_ended() and not worker.store.leases.held:
                measure.written()
            await asyncio.sleep(0.001)
        while True:
            await asyncio.sleep(0.05)
            await pool.enqueue_job("note", time.time())


logging.disable(logging.WARNING)
uvloop.run(main())
