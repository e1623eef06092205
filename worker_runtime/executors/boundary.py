"""What every executor is, and what it is given: the protocols between an attempt and its place."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from worker_runtime.model.context import JobContext
from worker_runtime.model.job import Job
from worker_runtime.model.states import StopReason


class Call(Protocol):
    """What an executor is given of an attempt.

    `context` is None where neither the task nor the executor needs one (loop tasks without a
    context parameter). `began()` must be called once, on the event loop's thread, when the function
    is about to run: waiting for a free thread or child does not count against the deadline.
    """

    @property
    def job(self) -> Job: ...

    @property
    def context(self) -> JobContext | None: ...

    def began(self) -> None: ...

    def interrupt(self) -> None:
        """Raise CancelledError where the caller awaits what `start` returned."""
        ...


class Executor(Protocol):
    """Where attempts run.

    Guarantees: `start` returns at once; awaiting what it returns gives the task's return value or
    raises what the task raised, ChildCrashed, RemoteFailure or ExecutorFull. One attempt's end
    never disturbs another's.
    """

    needs_context: bool
    stop_grace_s: float
    """Seconds after `stop` before the caller may give the attempt up."""

    async def open(self) -> None:
        """Make ready to run. Raises ConfigurationError when it never will be."""
        ...

    def start(self, call: Call) -> Awaitable[Any]: ...

    def stop(self, call: Call, reason: StopReason) -> None:
        """Begin to end a running attempt: cooperative first, by force where force exists.

        Returns at once; the awaitable from `start` still ends, unless nothing can end it (a thread,
        a coroutine that swallows its cancel). Such an attempt is abandoned by the caller.
        """
        ...

    def abandon(self, call: Call) -> None:
        """The caller no longer waits for this attempt: replace what it holds, within a bound."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Figures for the API and the metrics: at least `size`, `busy`, `waiting`, `abandoned`."""
        ...

    async def close(self) -> None:
        """End everything still running and release threads and children."""
        ...
