"""Run one job once. The attempt never raises and never writes: it ends in an Outcome."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.engine.slots import Slot
from worker_runtime.errors import (
    ChildCrashed,
    JobInterrupted,
    Refused,
    RemoteFailure,
    RunAgain,
)
from worker_runtime.executors.returned import ENDS, discard, finished, is_unfinished, order_in
from worker_runtime.model.activity import Failure
from worker_runtime.model.bounded import error_text, traceback_text
from worker_runtime.model.context import JobContext, RecordReporter
from worker_runtime.model.job import Job, call_arguments, retry_of, timeout_of
from worker_runtime.model.outcome import Outcome, OutcomeKind
from worker_runtime.model.states import Reason, StopReason
from worker_runtime.stores.boundary import Recorder

# Enum member access costs a descriptor call on 3.11.
RETURNED = OutcomeKind.RETURNED
RETURNED_NONE = Outcome(RETURNED)

# Jobs that one slot runs before it lets the event loop serve others, were none of them to wait.
_JOBS_PER_TURN = 64
_TYPE_NAME_CHARS_MAX = 200

Middleware = Callable[[JobContext, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""`async def middleware(ctx, call_next)`: awaits `call_next()` once, as a rule, for the value."""


class _NeverAccepted(Exception):
    """The record of a job's start says that the job was refused. A class of this module alone, so
    that nothing which a task or a middleware raises can pass for it."""


class Attempts:
    """Runs attempts: knows the executors, the middleware and the state that contexts carry.

    keeps_late_ends  what a stopped attempt returns or raises of its own counts, whatever stopped
                     it; else a cancel and a timeout have the last word
    """

    def __init__(
        self,
        clock: Clock,
        *,
        middleware: Sequence[Middleware] = (),
        recorder: Recorder | None = None,
        error_bytes_max: int,
        keeps_late_ends: bool = False,
    ) -> None:
        self._clock = clock
        self._middleware = tuple(middleware)
        self._keeps_late_ends = keeps_late_ends
        self._recorder = recorder
        self._error_bytes_max = error_bytes_max
        self.state: Any = None

    async def run(self, slot: Slot, finished: Callable[[Slot, Outcome], bool]) -> None:
        """Run the slot's job to its Outcome, whatever its task does, and hand that to `finished`;
        then run the next job, as long as `finished` has put one into the slot. Never raises."""
        while True:
            slot.is_started = True
            for _ in range(_JOBS_PER_TURN):
                job = slot.job
                task = job.task
                try:
                    if task.is_bare and job.kwargs is None and slot.stopped_by is None:
                        # What LoopExecutor.start comes to when there is nothing to set up.
                        if task.timeout_s is not None or job.options is not None:
                            slot.began()
                        value = await task.fn(  # type: ignore[misc]
                            *(call_arguments(job)[0] if task.takes_mutable else job.args)
                        )
                    else:
                        value = await self._run_dressed(slot)
                except BaseException as error:
                    outcome = self._outcome_of(slot, error)
                else:
                    if slot.stopped_by is not None:
                        outcome = self._outcome_of_value(slot, value)
                    elif value is None:
                        outcome = RETURNED_NONE
                    elif type(value) in ENDS:
                        outcome = Outcome(RETURNED, value)
                    else:
                        outcome = await self._outcome_of_odd(slot, value)
                if not finished(slot, outcome):
                    return
            slot.is_started = False  # a stop that arrives now finds nothing to interrupt
            await asyncio.sleep(0)

    async def _run_dressed(self, slot: Slot) -> Any:
        """Run the slot's job with what it may need: a record, a context, middleware."""
        if slot.stopped_by is not None:  # between its choice and its start
            raise JobInterrupted
        job = slot.job
        if job.task.needs_context or self._middleware:
            slot.context = self._context_of(job)
        try:
            if self._recorder is not None:
                try:
                    recorded = self._recorder.record_started(job)
                    if recorded is not None:
                        await recorded
                except Refused as refusal:
                    raise _NeverAccepted from refusal
            if self._middleware:
                return await self._wrapped(slot)
            return await job.task.executor.start(slot)
        finally:  # the slot's next job may have none
            slot.context = None

    def _context_of(self, job: Job) -> JobContext:
        return JobContext(
            job_id=job.id,
            task=job.task.name,
            queue=job.queue,
            attempt=job.attempt,
            reporter=RecordReporter(job),
            clock=self._clock,
            label=None if job.options is None else job.options.label,
            state=self.state,
        )

    async def _wrapped(self, slot: Slot) -> Any:
        async def innermost() -> Any:
            return await finished(await slot.job.task.executor.start(slot))

        assert slot.context is not None
        call: Callable[[], Awaitable[Any]] = innermost
        for wrapper in reversed(self._middleware):
            call = functools.partial(wrapper, slot.context, call)
        return await call()

    def stopped(self, slot: Slot, note: str | None = None) -> Outcome:
        """The outcome of an attempt that was told to stop, or given up after that."""
        reason = slot.stopped_by
        if reason is StopReason.TIMEOUT:
            text = f"ran longer than its timeout of {timeout_of(slot.job):g} s"
            failure = Failure(Reason.TIMEOUT, "TimeoutError", text, note=note)
        elif reason is StopReason.SHUTDOWN:
            failure = Failure(Reason.INTERRUPTED, "JobInterrupted", "the worker stopped", note=note)
        else:
            text = slot.stop_message or "cancelled while running"
            failure = Failure(None, "JobCancelled", text, note=note)
        return Outcome(
            OutcomeKind.STOPPED,
            failure=failure,
            # An abandoned attempt still runs, and no job runs twice at a time.
            retryable=reason is StopReason.TIMEOUT
            and not slot.is_abandoned
            and retry_of(slot.job).admits(TimeoutError()),
            stopped_by=reason,
        )

    def _may_end_late(self, slot: Slot) -> bool:
        return self._keeps_late_ends or slot.stopped_by is StopReason.SHUTDOWN

    async def _outcome_of_odd(self, slot: Slot, value: Any) -> Outcome:
        """What a value of an unusual type amounts to, brought to its end where it has none yet."""
        try:
            value = await finished(value)
        except BaseException as error:
            return self._outcome_of(slot, error)
        return self._outcome_of_value(slot, value)

    def _outcome_of_value(self, slot: Slot, value: Any) -> Outcome:
        if slot.stopped_by is not None and (is_unfinished(value) or not self._may_end_late(slot)):
            discard(value)
            return self.stopped(slot)
        if type(value) is RunAgain:
            return _again(value)
        return Outcome(RETURNED, value)

    def _outcome_of(self, slot: Slot, error: BaseException) -> Outcome:
        job, limit = slot.job, self._error_bytes_max
        if isinstance(error, GeneratorExit) and not _runs_now(slot):
            raise error  # the slot's own coroutine is being closed: its event loop ends
        if type(error) is _NeverAccepted:
            return Outcome(OutcomeKind.REFUSED)
        error = order_in(error)
        if slot.stopped_by is not None:
            was_told = isinstance(error, asyncio.CancelledError | JobInterrupted | ChildCrashed)
            if was_told or not self._may_end_late(slot):
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
                type(error).__name__[:_TYPE_NAME_CHARS_MAX],
                error_text(error, limit),
                traceback_text(error, limit),
            )
        return Outcome(OutcomeKind.RAISED, failure=failure, retryable=retry_of(job).admits(error))


def _runs_now(slot: Slot) -> bool:
    try:
        return asyncio.current_task() is slot.runner
    except RuntimeError:  # no event loop runs
        return False


def _again(request: RunAgain) -> Outcome:
    return Outcome(
        OutcomeKind.RUN_AGAIN, again_s=request.delay_s, uses_attempt=request.uses_attempt
    )
