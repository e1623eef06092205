"""Functions that look sync and come back with something that has not run yet."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from worker_runtime.errors import RunAgain
from worker_runtime.model.context import JobContext


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What most hand-written decorators are: sync, whatever they are put round."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


@decorated
async def coroutine(note: str) -> str:
    await asyncio.sleep(0)
    Path(note).touch()
    return "ran"


class Callback:
    """An object whose call is sync and gives a coroutine."""

    __name__ = "callback"

    def __call__(self, note: str) -> Awaitable[str]:
        result: Awaitable[str] = coroutine(note)
        return result


callback = Callback()
partial = functools.partial(coroutine)
static = staticmethod(coroutine)


async def forgotten(note: str) -> Any:
    return coroutine(note)  # its author forgot an `await`


class Awaits:
    def __init__(self, note: str) -> None:
        self._note = note

    def __await__(self) -> Iterator[Any]:
        return coroutine(self._note).__await__()  # type: ignore[no-any-return]


def awaitable(note: str) -> Awaits:
    return Awaits(note)


def pooled(note: str) -> concurrent.futures.Future[str]:
    def work() -> str:
        time.sleep(0.01)
        Path(note).touch()
        return "ran"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(work)


@decorated
def generator(note: str) -> Iterator[str]:
    Path(note).touch()
    yield "ran"


@decorated
async def async_generator(note: str) -> AsyncIterator[str]:
    Path(note).touch()
    yield "ran"


@decorated
async def again(ctx: JobContext, note: str) -> Any:
    if not Path(note).exists():
        Path(note).touch()
        return RunAgain(0.001)
    return "ran"


@decorated
async def failing(note: str) -> None:
    raise ConnectionError("down")


@decorated
async def hanging(note: str) -> None:
    try:
        Path(note).touch()
        await asyncio.Event().wait()
    finally:
        Path(note + ".unwound").touch()


def answers_itself(note: str) -> str:
    """A decorator of this kind runs the coroutine: there is nothing left to wait for."""
    answer: str = asyncio.run(coroutine(note))
    return answer


RUN: dict[str, Callable[..., Any]] = {
    "coroutine": coroutine,
    "callback": callback,
    "partial": partial,
    "static": static,
    "forgotten": forgotten,
    "awaitable": awaitable,
    "pooled": pooled,
    "again": again,
    "answers_itself": answers_itself,
}
