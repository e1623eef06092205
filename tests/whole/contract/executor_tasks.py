"""The same tasks as a coroutine for the loop and as a plain function for threads and children."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NoReturn

from worker_runtime.errors import QueueFull, RunAgain, ShuttingDown, StoreUnavailable
from worker_runtime.model.activity import Counts
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import task

ERRORS: dict[str, type[BaseException]] = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "StoreUnavailable": StoreUnavailable,
    "QueueFull": QueueFull,
    "ShuttingDown": ShuttingDown,
}


def add(a: int, *, b: int) -> int:
    return a + b


async def add_async(a: int, *, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def fail(kind: str) -> NoReturn:
    raise ERRORS[kind]("on purpose")


async def fail_async(kind: str) -> NoReturn:
    await asyncio.sleep(0)
    raise ERRORS[kind]("on purpose")


@task(run_in="thread")
def fail_in_thread(kind: str) -> NoReturn:
    raise ERRORS[kind]("on purpose")


@task(run_in="process")
def fail_in_child(kind: str) -> NoReturn:
    raise ERRORS[kind]("on purpose")


@task(run_in="process")
def report_in_a_child(ctx: JobContext) -> int:
    wei = 20 * 10**18
    ctx.report(wei, 50 * 10**18, counts=Counts(items_done=wei, items_total=wei))
    ctx.record_metric("wei", wei)
    return 1


def postpone(how: str) -> RunAgain:
    if how == "raise":
        raise RunAgain(3.0)
    return RunAgain(3.0)


async def postpone_async(how: str) -> RunAgain:
    return postpone(how)


def work_until_stopped(ctx: JobContext, started: str) -> None:
    ctx.report(1, 2, step="started")
    Path(started).touch()
    while True:
        ctx.raise_if_cancelled()
        time.sleep(0.001)


async def work_until_stopped_async(ctx: JobContext, started: str) -> None:
    ctx.report(1, 2, step="started")
    Path(started).touch()
    while True:
        ctx.raise_if_cancelled()
        await asyncio.sleep(0.001)


def ignore_everything(started: str, release: str) -> str:
    Path(started).touch()
    while not Path(release).exists():
        try:
            time.sleep(0.001)
        except BaseException:
            pass
    return "at last"


async def ignore_everything_async(started: str, release: str) -> str:
    Path(started).touch()
    while not Path(release).exists():
        try:
            await asyncio.sleep(0.001)
        except BaseException:
            pass
    return "at last"
