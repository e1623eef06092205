"""A runtime whose lifespan enqueues three jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker_runtime import Runtime, task


@task
async def say(number: int) -> None:
    print(f"burst: {number}")


@asynccontextmanager
async def three_jobs(runtime: Runtime) -> AsyncIterator[None]:
    async def enqueue() -> None:
        while not runtime.is_accepting:
            await asyncio.sleep(0)
        for number in range(3):
            await runtime.enqueue(say, number)

    async with asyncio.TaskGroup() as group:
        group.create_task(enqueue())
        yield


def make() -> Runtime:
    return Runtime([say], concurrency=1, lifespan=three_jobs)
