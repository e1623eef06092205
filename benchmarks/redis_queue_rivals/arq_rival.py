"""arq with its defaults; `work_quick` polls every 10 ms instead of every half second."""

import asyncio
import logging
import time

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from measure import COUNT, PORT, SLOTS, VERB, begin, end, picked_up

REDIS = RedisSettings(port=PORT)


async def noop(ctx):
    begin()
    end()


async def sleep_10ms(ctx):
    begin()
    await asyncio.sleep(0.01)
    end()


async def note(ctx, enqueued_at):
    picked_up(enqueued_at)


async def main():
    pool = await create_pool(REDIS)
    if VERB.startswith("enqueue"):
        began_at = time.perf_counter()
        for _ in range(COUNT):
            await pool.enqueue_job(VERB.partition(":")[2])
        print(time.perf_counter() - began_at)
        return
    worker = Worker(
        [noop, sleep_10ms, note],
        redis_settings=REDIS,
        max_jobs=SLOTS,
        handle_signals=False,
        poll_delay=0.01 if VERB == "work_quick" else 0.5,
    )
    running = asyncio.ensure_future(worker.async_run())
    while not VERB.startswith("work"):
        await asyncio.sleep(0.05)
        await pool.enqueue_job("note", time.time())
    await running


logging.disable(logging.WARNING)
uvloop.run(main())
