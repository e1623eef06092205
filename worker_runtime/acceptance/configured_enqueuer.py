"""Enqueueing with options: what `runtime.options(...)` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.acceptance.options import Call, EnqueueOptions, Enqueuer, TaskRef

if TYPE_CHECKING:
    from worker_runtime.runtime import Runtime


class ConfiguredEnqueuer(Enqueuer):
    """A runtime's enqueue with its jobs' options fixed. Reusable, unless it names a job id."""

    def __init__(
        self,
        runtime: Runtime,
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
