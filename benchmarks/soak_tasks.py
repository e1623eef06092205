"""Tasks that behave as tasks do in the long run: most are well, some are not. For `make soak`."""

from __future__ import annotations

import asyncio
import os
import time

from worker_runtime import JobContext, Retry, task


@task
async def quick(n: int) -> int:
    return n


@task(timeout_s=0.2)
async def late() -> None:
    await asyncio.sleep(60)


@task
async def long(ctx: JobContext) -> None:
    for step in range(100):
        ctx.report(step, 100)
        await asyncio.sleep(0.1)


@task(retry=Retry(max_attempts=2, delay_s=0.05))
async def flaky(ctx: JobContext) -> int:
    if ctx.attempt == 1:
        raise ConnectionError("not this time")
    return ctx.attempt


@task
async def broken() -> None:
    raise RuntimeError("x" * 100_000)


@task
async def large() -> str:
    return "x" * 200_000


@task(run_in="thread")
def threaded(ctx: JobContext) -> float:
    time.sleep(0.02)
    ctx.raise_if_cancelled()
    return time.time()


@task(run_in="process", timeout_s=10)
def square(n: int) -> int:
    return n * n


@task(run_in="process", timeout_s=10, on_crash="fail")
def crash() -> None:
    os.abort()
