"""Turns calls into jobs: the typed face of everything that enqueues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Concatenate, Protocol, overload

from worker_runtime.acceptance.call import Call, P, R, TaskRef, calls_in
from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.model.context import JobContext


class Enqueuer(ABC):
    """Turns calls into jobs. The task's arguments are the method's own: options never mix in."""

    @abstractmethod
    async def _enqueue(
        self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> JobHandle[Any]: ...

    @abstractmethod
    async def _enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]: ...

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
        return await self._enqueue_many(calls_in(calls))


class AcceptsCalls(Protocol):
    """The two ways in that take a job's options as a value; see `Runtime`."""

    async def enqueue_with(
        self,
        options: EnqueueOptions,
        task: TaskRef,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> JobHandle[Any]: ...

    async def enqueue_many_with(
        self, options: EnqueueOptions, calls: Iterable[Call[Any]]
    ) -> list[JobHandle[Any]]: ...


class ConfiguredEnqueuer(Enqueuer):
    """A runtime's enqueue with its jobs' options fixed. Reusable, unless it names a job id."""

    def __init__(
        self,
        runtime: AcceptsCalls,
        options: EnqueueOptions,
        make_again: Callable[[], EnqueueOptions] | None,
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._make_again = make_again

    async def _enqueue(
        self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> JobHandle[Any]:
        return await self._runtime.enqueue_with(self.now(), task, args, kwargs)

    async def _enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        return await self._runtime.enqueue_many_with(self.now(), calls)

    def now(self) -> EnqueueOptions:
        """The options, with what counts from now counted from now."""
        return self._options if self._make_again is None else self._make_again()
