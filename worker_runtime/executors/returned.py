"""What a task's function came back with, brought to its end.

A function may say that it is sync and still return a coroutine, as one behind a sync decorator
does. Its body has not run then, and the job has not ended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import types
from typing import Any

from worker_runtime.errors import JobInterrupted, RunAgain
from worker_runtime.model.bounded import leaves_of

# The usual types of results, each of which is an end. For callers who look before they ask.
ENDS = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset})

_MORE_TO_DO = (concurrent.futures.Future, types.GeneratorType, types.AsyncGeneratorType)


def is_unfinished(value: Any) -> bool:
    """Whether there is more to do before what the function returned is the task's result."""
    return type(value) not in ENDS and (
        inspect.isawaitable(value) or isinstance(value, _MORE_TO_DO)
    )


async def finished(value: Any) -> Any:
    """The result itself: what can be awaited is awaited, on this loop. Raises what that raises, and
    TypeError for a generator, of which no part has run."""
    while is_unfinished(value):
        if inspect.isawaitable(value):
            value = await value
        elif isinstance(value, concurrent.futures.Future):
            value = await asyncio.wrap_future(value)
        else:
            kind = "a generator" if inspect.isgenerator(value) else "an async generator"
            raise TypeError(f"the task returned {kind}; a task returns once")
    return value


def order_in(error: BaseException) -> BaseException:
    """The order to stop or to run again that a group is made of, as a TaskGroup makes it of what
    its tasks raise; `error` where it is none, or has something else in it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(leaves_of(error))
    if all(isinstance(leaf, RunAgain) for leaf in leaves):
        return max(leaves, key=lambda leaf: leaf.delay_s)  # type: ignore[attr-defined]
    orders = JobInterrupted | asyncio.CancelledError
    return leaves[0] if all(isinstance(leaf, orders) for leaf in leaves) else error


def discard(value: Any) -> None:
    """Let go of a value that nobody will bring to its end."""
    if inspect.iscoroutine(value):
        value.close()  # else the interpreter warns that it was never awaited
    elif isinstance(value, asyncio.Future | concurrent.futures.Future):
        value.cancel()
