"""A call of a task, written down: typed by the task, and not made yet."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from worker_runtime.errors import InvalidJob
from worker_runtime.model.context import JobContext

P = ParamSpec("P")


R = TypeVar("R")


R_co = TypeVar("R_co", covariant=True)


TaskRef = Callable[..., Any] | str


class Call(Generic[R_co]):
    """A task and its arguments, for `enqueue_many`. Make one with `call(...)`."""

    __slots__ = ("args", "kwargs", "task")

    def __init__(self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs


@overload
def call(
    task: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Call[R]: ...


@overload
def call(
    task: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Call[R]: ...


@overload
def call(
    task: Callable[Concatenate[JobContext, P], R], /, *args: P.args, **kwargs: P.kwargs
) -> Call[R]: ...


@overload
def call(task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...


@overload
def call(task: str, /, *args: Any, **kwargs: Any) -> Call[Any]: ...


def call(task: TaskRef, /, *args: Any, **kwargs: Any) -> Call[Any]:
    """The call `task(*args, **kwargs)`, not made yet."""
    return Call(task, args, kwargs)


def step(task: TaskRef, /, *args: Any, **kwargs: Any) -> Call[Any]:
    """A call in a chain: it gets the result of the step before it as one more, first argument."""
    return Call(task, args, kwargs)


def calls_in(given: Iterable[Call[Any]]) -> list[Call[Any]]:
    """The calls as a list. Raises InvalidJob where another thing stands in their place."""
    calls = list(given) if isinstance(given, Iterable) else [given]
    for one in calls:
        if not isinstance(one, Call):
            raise InvalidJob(f"give call(task, ...) or step(task, ...), not {one!r:.200}")
    return calls
