"""Run one job once. The attempt never raises and never writes: it ends in an Outcome."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from worker_runtime.context import JobContext, RecordReporter
from worker_runtime.error_text import error_text, traceback_text
from worker_runtime.errors import (
    ChildCrashed,
    JobInterrupted,
    RemoteFailure,
    RunAgain,
    StoreUnavailable,
)
from worker_runtime.executors import Executor
from worker_runtime.job import Failure, Job, Outcome, OutcomeKind, Reason, StopReason
from worker_runtime.stores import Store
from worker_runtime.task import Retry

logger = logging.getLogger("worker_runtime.attempt")

RETURNED = OutcomeKind.RETURNED

Middleware = Callable[[JobContext, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""`async def middleware(ctx, call_next)`: awaits `call_next()` once and returns its value, or not."""


class Slot:
    """A place that attempts one job at a time, and the attempt that runs in it now.

    `deadline` is loop time: when to stop the attempt, and once it was told to stop, when to give
    it up. An abandoned slot belongs to a task that would not end; its outcome no longer counts.
    """

    __slots__ = (
        "began_at",
        "context",
        "deadline",
        "executor",
        "is_abandoned",
        "is_started",
        "job",
        "runner",
        "stop_message",
        "stopped_by",
        "watch",
    )

    job: Job  # the running one, or the last

    def __init__(self, watch: Callable[[float], None]) -> None:
        self.watch = watch
        self.runner: asyncio.Task[None] | None = None
        self.executor: Executor | None = None
        self.context: JobContext | None = None
        self.deadline: float | None = None
        self.began_at = 0.0
        self.stopped_by: StopReason | None = None
        self.stop_message = ""
        self.is_started = False
        self.is_abandoned = False

    def began(self) -> None:
        """The function is about to run: its time starts now."""
        self.began_at = now = asyncio.get_running_loop().time()
        job = self.job
        timeout_s = job.task.timeout_s
        if job.options is not None and job.options.timeout_s is not msgspec.UNSET:
            timeout_s = job.options.timeout_s
        if timeout_s is not None and self.stopped_by is None:
            self.deadline = now + timeout_s
            self.watch(self.deadline)

    def interrupt(self) -> None:
        if self.runner is not None:
            self.runner.cancel()

    def request_stop(self, reason: StopReason, now: float, message: str = "") -> None:
        """Tell the running attempt to end, and set the time at which it is given up."""
        if self.stopped_by is not None or self.executor is None:
            return
        self.stopped_by = reason
        self.stop_message = message
        if self.is_started:
            self.deadline = now + self.executor.stop_grace_s
            self.watch(self.deadline)
            self.executor.stop(self, reason)

    def vacate(self) -> None:
        self.context = None
        self.deadline = None
        self.executor = None
        self.is_started = False
        self.began_at = 0.0


class Attempts:
    """Runs attempts: knows the executors, the middleware and the state that contexts carry."""

    def __init__(
        self,
        executors: dict[str, Executor],
        *,
        middleware: Sequence[Middleware] = (),
        store: Store | None = None,
        error_bytes_max: int,
    ) -> None:
        self._executors = executors
        self._middleware = tuple(middleware)
        self._store = store
        self._error_bytes_max = error_bytes_max
        self.state: Any = None

    async def run_once(self, slot: Slot) -> Outcome:
        """Run the slot's job to an Outcome, whatever its task does. Never raises."""
        slot.is_started = True
        executor = slot.executor
        assert executor is not None, "prepare() comes first"
        if slot.stopped_by is not None:  # between its choice and its start
            return self.stopped(slot)
        try:
            if self._store is not None:
                recorded = self._store.record_started(slot.job)
                if recorded is not None:
                    await recorded
            if self._middleware:
                value = await self._wrapped(slot, executor)
            else:
                value = await executor.start(slot)
        except BaseException as error:
            return self._outcome_of(slot, error)
        if slot.stopped_by is not None and slot.stopped_by is not StopReason.SHUTDOWN:
            return self.stopped(slot)
        if type(value) is RunAgain:
            return _again(value)
        return Outcome(RETURNED, value)

    def prepare(self, slot: Slot, job: Job) -> None:
        """Put `job` in the slot: from now on it can be told to stop."""
        slot.job = job
        slot.executor = executor = self._executors[job.task.run_in]
        slot.stopped_by = None
        if job.task.signature.context_name or executor.needs_context or self._middleware:
            slot.context = JobContext(
                job_id=job.id,
                task=job.task.name,
                queue=job.queue,
                attempt=job.attempt,
                reporter=RecordReporter(job),
                label=None if job.options is None else job.options.label,
                state=self.state,
            )

    async def _wrapped(self, slot: Slot, executor: Executor) -> Any:
        async def innermost() -> Any:
            return await executor.start(slot)

        assert slot.context is not None
        call: Callable[[], Awaitable[Any]] = innermost
        for wrapper in reversed(self._middleware):
            call = functools.partial(wrapper, slot.context, call)
        return await call()

    def stopped(self, slot: Slot, note: str | None = None) -> Outcome:
        """The outcome of an attempt that was told to stop, or given up after that."""
        reason = slot.stopped_by
        if reason is StopReason.TIMEOUT:
            text = f"ran longer than its timeout of {_timeout_of(slot.job):g} s"
            failure = Failure(Reason.TIMEOUT, "TimeoutError", text, note=note)
        elif reason is StopReason.SHUTDOWN:
            failure = Failure(Reason.INTERRUPTED, "JobInterrupted", "the worker stopped", note=note)
        else:
            text = slot.stop_message or "cancelled while running"
            failure = Failure(None, "JobCancelled", text, note=note)
        return Outcome(
            OutcomeKind.STOPPED,
            failure=failure,
            retryable=reason is StopReason.TIMEOUT and retry_of(slot.job).admits(TimeoutError()),
            stopped_by=reason,
        )

    def _outcome_of(self, slot: Slot, error: BaseException) -> Outcome:
        job, limit = slot.job, self._error_bytes_max
        if isinstance(error, StoreUnavailable):
            return Outcome(OutcomeKind.REFUSED)
        if slot.stopped_by is not None:
            was_told = isinstance(error, asyncio.CancelledError | JobInterrupted | ChildCrashed)
            if was_told or slot.stopped_by is not StopReason.SHUTDOWN:
                return self.stopped(slot, getattr(error, "note", None))
        if isinstance(error, RunAgain):
            return _again(error)
        if isinstance(error, ChildCrashed):
            failure = Failure(
                Reason.CRASHED, "ChildCrashed", error_text(error, limit), note=error.note
            )
            return Outcome(OutcomeKind.RAISED, failure=failure, retryable=error.retryable)
        if isinstance(error, RemoteFailure):
            failure = Failure(Reason.ERROR, error.error_type, error.error, error.traceback)
        else:
            failure = Failure(
                Reason.ERROR,
                type(error).__name__,
                error_text(error, limit),
                traceback_text(error, limit),
            )
        return Outcome(OutcomeKind.RAISED, failure=failure, retryable=retry_of(job).admits(error))


def retry_of(job: Job) -> Retry:
    """The retry policy that holds for `job`."""
    if job.options is not None and job.options.retry is not msgspec.UNSET:
        return job.options.retry or Retry(max_attempts=1)
    return job.task.retry


def _timeout_of(job: Job) -> float:
    if job.options is not None and job.options.timeout_s is not msgspec.UNSET:
        return job.options.timeout_s or 0.0
    return job.task.timeout_s or 0.0


def _again(request: RunAgain) -> Outcome:
    return Outcome(
        OutcomeKind.RUN_AGAIN, again_s=request.delay_s, uses_attempt=request.uses_attempt
    )
