"""SAQ with its defaults."""

import asyncio
import logging
import time

import uvloop
from measure import COUNT, SLOTS, URL, VERB, begin, end, picked_up
from saq import Queue, Worker


async def noop(ctx):
    begin()
    end()


async def sleep_10ms(ctx):
    begin()
    await asyncio.sleep(0.01)
    end()


async def note(ctx, *, enqueued_at):
    picked_up(enqueued_at)


async def main():
    queue = Queue.from_url(URL)
    await queue.connect()
    if VERB.startswith("enqueue"):
        began_at = time.perf_counter()
        for _ in range(COUNT):
            await queue.enqueue(VERB.partition(":")[2])
        print(time.perf_counter() - began_at)
        return
    worker = Worker(queue, [noop, sleep_10ms, note], concurrency=SLOTS)
    running = asyncio.ensure_future(worker.start())
    while VERB != "work":
        await asyncio.sleep(0.05)
        await queue.enqueue("note", enqueued_at=time.time())
    await running


logging.disable(logging.WARNING)
uvloop.run(main())
