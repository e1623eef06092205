"""arq, as its documentation shows it, with a poll as short as its own default allows."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker


async def noop(ctx):
    pass


async def sleep_10ms(ctx):
    await asyncio.sleep(0.01)


async def note(ctx, enqueued_at):
    return time.time() - enqueued_at


async def enqueue(port, function, count):
    pool = await create_pool(RedisSettings(port=port))
    for _ in range(count):
        await pool.enqueue_job(function)
    await pool.aclose()


async def work(port, slots, poll_s):
    worker = Worker(
        [noop, sleep_10ms, note],
        redis_settings=RedisSettings(port=port),
        max_jobs=slots,
        burst=True,
        handle_signals=False,
        poll_delay=poll_s,
    )
    await worker.async_run()
    await worker.close()


async def latencies(port, count, every_s):
    worker = Worker([note], redis_settings=RedisSettings(port=port), handle_signals=False)
    running = asyncio.ensure_future(worker.async_run())
    pool = await create_pool(RedisSettings(port=port))
    found = []
    for _ in range(count):
        job = await pool.enqueue_job("note", time.time())
        found.append(await job.result(timeout=5, poll_delay=0.005))
        await asyncio.sleep(every_s)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker.close()
    await pool.aclose()
    return found


if __name__ == "__main__":
    import uvloop

    logging.disable(logging.WARNING)
    verb, port = sys.argv[1], int(sys.argv[2])
    if verb == "enqueue":
        uvloop.run(enqueue(port, sys.argv[3], int(sys.argv[4])))
    elif verb == "work":
        uvloop.run(work(port, int(sys.argv[3]), float(sys.argv[4])))
    else:
        print(*uvloop.run(latencies(port, int(sys.argv[3]), float(sys.argv[4]))))
