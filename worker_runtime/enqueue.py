"""How a call of a task is written down: typed by the task, apart from the options of its job."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import msgspec

from worker_runtime.context import JobContext
from worker_runtime.handle import JobHandle
from worker_runtime.job import Priority
from worker_runtime.task import JobOptions

P = ParamSpec("P")
R = TypeVar("R")

TaskRef = Callable[..., Any] | str


class EnqueueOptions(msgspec.Struct, frozen=True):
    """Where and when one job runs. None means: as its task says. `due_at` is Unix seconds.

    `must_encode`: the result will be read as JSON or MessagePack. `wire`: the arguments were.
    """

    job_id: str | None = None
    queue: str | None = None
    priority: Priority | None = None
    due_at: float | None = None
    overrides: JobOptions | None = None
    must_encode: bool = False
    wire: bool = False


class Call(Generic[R]):
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


class Enqueuer:
    """Turns calls into jobs. The task's arguments are the method's own: options never mix in."""

    async def _enqueue(
        self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> JobHandle[Any]:
        raise NotImplementedError

    async def _enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        raise NotImplementedError

    @overload
    async def enqueue(
        self,
        task: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> JobHandle[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[Concatenate[JobContext, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, task: str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]: ...
    def enqueue(
        self, task: TaskRef, /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, JobHandle[Any]]:
        """Accept the call `task(*args, **kwargs)` as a job and return its handle.

        Once this returns, the job is accepted: it runs, or is kept, as the store promises.
        Raises Refused (see `worker_runtime.errors`), and then the job never runs.
        """
        return self._enqueue(task, args, kwargs)

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Accept all of the calls, or none: raises Refused for the first that cannot be."""
        return await self._enqueue_many(calls)
