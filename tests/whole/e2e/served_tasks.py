"""What the workers of these tests serve."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from pathlib import Path

from worker_runtime import JobContext, task


@task
async def record(ctx: JobContext, path: str, seconds: float) -> str:
    """Work for a while, then leave a line in a file: what was really done."""
    await asyncio.sleep(seconds)
    with Path(path).open("a") as file:
        file.write(f"{ctx.job_id}\n")
    return ctx.job_id


@task
async def wait_for_file(ctx: JobContext, path: str) -> str:
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return ctx.job_id


@task
async def stubborn() -> None:
    """Ignore every cancel."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


@task
async def collector() -> tuple[int, int]:
    """How many objects the garbage collector leaves alone, and when it looks at young ones."""
    return gc.get_freeze_count(), gc.get_threshold()[0]


@task
async def say_and_fail(text: str) -> None:
    raise ValueError(text)


@task(run_in="process")
def print_and_fail(text: str) -> None:
    print(text, flush=True)
    logging.getLogger("served").warning("it says %s", text)
    raise ValueError(text)


@task(run_in="process")
def environment() -> dict[str, str]:
    """What a child has of it, and what its own child would."""
    return dict(os.environ)


@task
async def block_the_loop(seconds: float) -> None:
    time.sleep(seconds)


@task
def hold_a_thread(seconds: float) -> None:
    """A thread cannot be ended from outside."""
    time.sleep(seconds)


@task
async def hold_a_foreign_thread(seconds: float) -> None:
    """The interpreter itself waits for such a thread when it ends."""
    await asyncio.to_thread(time.sleep, seconds)


@task
async def process_id() -> int:
    return os.getpid()
