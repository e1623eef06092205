"""A call on its way through the process executor, and what its stations tell each other."""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Protocol, TypeVar

from worker_runtime.clock.source import Clock
from worker_runtime.executors.boundary import Call

Child_contra = TypeVar("Child_contra", contravariant=True)
"""What a child is to whoever hears of it."""


class Child(Protocol):
    """The child that a work is in, as far as that work is concerned."""

    token: int
    leave_reason: str | None

    def stop(self, work: Work, *, cooperates: bool) -> bool:
        """Begin to stop `work`; False where it had not begun, or had ended."""
        ...


class Work(asyncio.Future[Any]):
    """One call, encoded, and the future of its end."""

    child: Child | None = None
    serial = 0  # of its request in that child
    deaths = 0  # children that died before they read it
    has_begun = False
    is_stopping = False

    def __init__(
        self,
        line: WorkLine[Any],
        call: Call,
        request: bytes | list[memoryview],
        queued_at: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.line = line
        self.call = call
        self.job = call.job  # the call's own may be another one by the time this ends
        self.request = request
        self.queued_at = queued_at

    def cancel(self, msg: Any | None = None) -> bool:
        """The awaiter left: what runs for it is stopped."""
        if not self.done():
            self.line.forsaken(self)
        return super().cancel(msg)


class ChildState(enum.StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"  # retired, failed or killed: it gets no more work


STARTING = ChildState.STARTING
IDLE = ChildState.IDLE
BUSY = ChildState.BUSY
LEAVING = ChildState.LEAVING


REPLACED = (
    "crashed",
    "cancel",
    "timeout",
    "shutdown",
    "memory_limit",
    "memory_grown",
    "jobs_done",
    "idle",
    "start_failed",
)
"""Why a child is replaced, or not kept: all the words that statistics count by."""


class WorkLine(Protocol[Child_contra]):
    """Where work waits for a child. Each is called on the event loop's thread.

    `service_s` is what one of the longer recent jobs took; 0 before the first has ended.
    """

    transfer_s: float
    service_s: float

    def forsaken(self, work: Work) -> None:
        """Nobody awaits `work` any more."""
        ...

    def child_answered(self, child: Child_contra, work: Work) -> None:
        """The child has done `work` and may have room for more."""
        ...

    def taken_back(self, child: Child_contra, works: list[Work]) -> None:
        """These were in the child's line, oldest first, and wait for any child again; the child may
        be idle now."""
        ...

    def child_free(self, child: Child_contra) -> None:
        """A new child is warm."""
        ...

    def child_died(self, child: Child_contra, status: int | None) -> None:
        """A child that had been warm is dead; everything it said has been heard."""
        ...

    def backlog(self) -> int:
        """How much work waits for a child."""
        ...


class ChildKeeper(Protocol[Child_contra]):
    """Who starts, signals and buries children."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    grace_s: float
    term_grace_s: float

    def child_ready(self, child: Child_contra) -> None: ...

    def setup_failed(self, child: Child_contra, text: str) -> None: ...

    def child_silent(self, child: Child_contra) -> None:
        """The child closed its channel."""
        ...

    def send_signal(self, child: Child_contra, number: int) -> None: ...
