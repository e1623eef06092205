"""streaQ with its defaults."""

import asyncio
import logging
import time

import uvloop
from measure import COUNT, SLOTS, URL, VERB, begin, end, picked_up
from streaq import Worker

worker = Worker(redis_url=URL, concurrency=SLOTS, handle_signals=False)


@worker.task(name="noop")
async def noop():
    begin()
    end()


@worker.task(name="sleep_10ms")
async def sleep_10ms():
    begin()
    await asyncio.sleep(0.01)
    end()


@worker.task(name="note")
async def note(enqueued_at):
    picked_up(enqueued_at)


async def main():
    if VERB.startswith("enqueue"):
        async with worker:
            task = {"noop": noop, "sleep_10ms": sleep_10ms}[VERB.partition(":")[2]]
            began_at = time.perf_counter()
            for _ in range(COUNT):
                await task.enqueue()
            print(time.perf_counter() - began_at)
        return
    running = asyncio.ensure_future(worker.run_async())
    await asyncio.sleep(0.5)
    while VERB != "work":
        await asyncio.sleep(0.05)
        await note.enqueue(time.time())
    await running


logging.disable(logging.WARNING)
uvloop.run(main())
