"""Tasks that fail in a way that takes more than one exception to tell."""

from __future__ import annotations

import asyncio
from pathlib import Path

from worker_runtime.errors import RunAgain
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import task
from worker_runtime.model.tasks.policy import Retry

ONLY = Retry(max_attempts=2, delay_s=0.001, jitter=0, only_for=(ConnectionError,))


class Refused(ConnectionError):
    """One that the parent of a child never heard of."""


async def _fail(error: BaseException) -> None:
    raise error


async def _together(*errors: BaseException) -> None:
    async with asyncio.TaskGroup() as group:
        for error in errors:
            group.create_task(_fail(error))


def _count(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    return len(Path(path).read_text())


async def group(path: str) -> None:
    _count(path)
    await _together(ConnectionError("host 10.0.0.7 refused"), ValueError("bad row"))


async def raised_from(path: str) -> None:
    _count(path)
    try:
        raise ConnectionError("host 10.0.0.7 refused")
    except ConnectionError as error:
        raise RuntimeError("could not save") from error


async def noted(path: str) -> None:
    _count(path)
    error = ValueError("bad row")
    error.add_note("row 17")
    raise error


@task(retry=ONLY)
async def passing_group(path: str) -> int:
    count = _count(path)
    if count == 1:
        await _together(Refused("one"), ConnectionResetError("two"))
    return count


@task(retry=ONLY)
async def mixed_group(path: str) -> None:
    _count(path)
    await _together(Refused("one"), ValueError("two"))


@task(retry=ONLY)
def passing_group_of_a_thread(path: str) -> int:
    count = _count(path)
    if count == 1:
        raise ExceptionGroup("both", [Refused("one"), ConnectionResetError("two")])
    return count


async def again_in_a_group(path: str) -> int:
    count = _count(path)
    if count == 1:
        await _together(RunAgain(0.001))
    return count


async def stopped_in_a_group(ctx: JobContext, path: str) -> None:
    _count(path)

    async def look() -> None:
        while True:
            ctx.raise_if_cancelled()
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
