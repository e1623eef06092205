"""Calls for executors, without the rest of the runtime."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.support.helpers import PATIENCE_S, eventually
from worker_runtime.clock.source import SYSTEM
from worker_runtime.executors import Executor
from worker_runtime.executors.process.parent.pool import ProcessExecutor
from worker_runtime.model.context import JobContext, RecordReporter
from worker_runtime.model.job import Job
from worker_runtime.model.states import StopReason
from worker_runtime.model.tasks.definition import TaskDefinition, define
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.tasks.policy import RunIn
from worker_runtime.settings import ProcessSettings

_numbers = itertools.count(1)


class ExecutorCall:
    """A call of `definition` and the asyncio task that awaits it."""

    def __init__(
        self,
        executor: Executor,
        definition: TaskDefinition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        label: str | None = None,
    ) -> None:
        number = next(_numbers)
        self.job = Job(
            id=f"job-{number}",
            task=definition,
            args=args,
            kwargs=kwargs,
            queue="default",
            priority=2,
            order=number,
            created_at=0.0,
            attempt=1,
            options=None if label is None else JobOptions(label=label),
        )
        self.context: JobContext | None = None
        if executor.needs_context or definition.signature.context_name is not None:
            self.context = JobContext(
                job_id=self.job.id,
                task=definition.name,
                queue="default",
                attempt=1,
                reporter=RecordReporter(self.job),
                clock=SYSTEM,
                label=label,
            )
        self.began_count = 0
        self.when_begun: Callable[[], None] | None = None
        self._executor = executor
        self.runner = asyncio.get_running_loop().create_task(self._run())

    def begin_again(self, *args: Any) -> None:
        """Run another job in the same slot, as a dispatcher does."""
        self.job = msgspec.structs.replace(self.job, args=args, id=f"job-{next(_numbers)}")
        self.runner = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> Any:
        return await self._executor.start(self)

    def began(self) -> None:
        self.began_count += 1
        if self.when_begun is not None:
            asyncio.get_running_loop().call_soon(self.when_begun)

    def interrupt(self) -> None:
        self.runner.cancel()

    def stop(self, reason: StopReason = StopReason.CANCEL) -> None:
        self._executor.stop(self, reason)

    async def result(self, within_s: float = PATIENCE_S) -> Any:
        async with asyncio.timeout(within_s):
            return await self.runner

    async def error(self, within_s: float = PATIENCE_S) -> BaseException:
        """What the call raised, as a value."""
        await asyncio.wait([self.runner], timeout=within_s)
        assert self.runner.done(), "the call has not ended"
        if self.runner.cancelled():
            return asyncio.CancelledError()
        error = self.runner.exception()
        assert error is not None, f"the call returned {self.runner.result()!r}"
        return error


def defined(fn: Callable[..., Any], *, run_in: RunIn = "process") -> TaskDefinition:
    marked: TaskDefinition = define(fn, context_type=JobContext)
    marked.run_in = run_in
    return marked


class Pool:
    """An open process executor, and calls by function."""

    def __init__(self, executor: ProcessExecutor, tasks: dict[Any, TaskDefinition]) -> None:
        self.executor = executor
        self._tasks = tasks

    def call(
        self, fn: Callable[..., Any], *args: Any, label: str | None = None, **kwargs: Any
    ) -> ExecutorCall:
        return ExecutorCall(self.executor, self._tasks[fn], args, kwargs or None, label)

    async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self.call(fn, *args, **kwargs).result()

    async def error(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException:
        return await self.call(fn, *args, **kwargs).error()

    @property
    def statistics(self) -> dict[str, Any]:
        return self.executor.statistics()

    @property
    def restarts(self) -> dict[str, int]:
        """Children that ended, by reason."""
        return {k: n for k, n in self.statistics["restarts"].items() if n}

    @property
    def pids(self) -> list[int]:
        return [child["pid"] for child in self.statistics["children"]]


@asynccontextmanager
async def process_pool(*functions: Callable[..., Any], **settings: Any) -> AsyncIterator[Pool]:
    """A pool of one child, unless `settings` say otherwise, that is quick to lose patience."""
    limits = {"size_max": 1, "grace_s": 0.2, "term_grace_s": 0.2, **settings}
    tasks = {fn: defined(fn) for fn in functions}
    executor = ProcessExecutor(list(tasks.values()), SYSTEM, ProcessSettings(**limits))
    try:
        await executor.open()
        yield Pool(executor, tasks)
    finally:
        await executor.close()


async def written(path: Path) -> str:
    """The content of a file that a task writes, once it is there."""

    def content() -> str:
        return path.read_text() if path.exists() else ""

    return await eventually(content, what=f"{path.name}")
