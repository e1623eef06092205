"""taskiq on Redis streams, with results kept in Redis."""

import asyncio
import logging
import time

import uvloop
from measure import COUNT, SLOTS, URL, VERB, begin, end, picked_up
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))


@broker.task(task_name="noop")
async def noop():
    begin()
    end()


@broker.task(task_name="sleep_10ms")
async def sleep_10ms():
    begin()
    await asyncio.sleep(0.01)
    end()


@broker.task(task_name="note")
async def note(enqueued_at):
    picked_up(enqueued_at)


async def main():
    if VERB.startswith("enqueue"):
        await broker.startup()
        task = {"noop": noop, "sleep_10ms": sleep_10ms}[VERB.partition(":")[2]]
        began_at = time.perf_counter()
        for _ in range(COUNT):
            await task.kiq()
        print(time.perf_counter() - began_at)
        await broker.shutdown()
        return
    running = asyncio.ensure_future(
        run_receiver_task(broker, max_async_tasks=SLOTS, run_startup=True)
    )
    await asyncio.sleep(0.5)
    while VERB != "work":
        await asyncio.sleep(0.05)
        await note.kiq(time.time())
    await running


logging.disable(logging.WARNING)
uvloop.run(main())
