"""Lanes and slots: a named queue at work, and the places where its attempts run. Plain state."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.engine.lines.limits import LimitedQueue, Limits
from worker_runtime.engine.lines.priority_queue import PriorityQueue
from worker_runtime.executors import Executor
from worker_runtime.model.context import JobContext
from worker_runtime.model.job import Job, timeout_of
from worker_runtime.model.states import StopReason

_UNSET = object()


class Lane:
    """A named queue at work: its waiting jobs and the slots that attempt them."""

    __slots__ = (
        "busy",
        "capacity",
        "concurrency",
        "idle",
        "is_paused",
        "limited",
        "name",
        "queue",
        "running",
        "timer",
        "timer_at",
        "wakeups",
    )

    def __init__(self, name: str, *, concurrency: int, capacity: int, queue: PriorityQueue) -> None:
        self.name = name
        self.concurrency = concurrency
        self.capacity = capacity
        self.queue = queue
        self.limited = queue if isinstance(queue, LimitedQueue) else None
        self.busy = 0
        self.running: set[Slot] = set()
        self.idle: list[Slot] = []
        self.wakeups: dict[Slot, asyncio.Future[None]] = {}
        self.is_paused = False
        self.timer: asyncio.Handle | None = None
        self.timer_at = 0.0

    def limit(self, limits: Limits) -> None:
        """Have what waits here heed limits and keys from now on. A queue whose jobs age has no
        turns to give: a job with a key is refused there, and one of an earlier life ages."""
        if self.queue.can_take_turns:
            self.queue = self.limited = LimitedQueue.taking_over(self.queue, limits, self.name)


class Slot:
    """A place that attempts one job at a time, and the attempt that runs in it now.

    `deadline` is monotonic time: when to stop the attempt, and once it was told to stop, when to
    give it up. An abandoned slot belongs to a task that would not end: its outcome is void.
    """

    __slots__ = (
        "began_at",
        "begun",
        "clean",
        "clean_values",
        "context",
        "deadline",
        "is_abandoned",
        "is_occupied",
        "is_spoilt",
        "is_started",
        "job",
        "lane",
        "monotonic",
        "runner",
        "stop_message",
        "stopped_by",
        "watch",
    )

    job: Job  # the running one; none while the slot is idle, or its result would outlive it

    def __init__(
        self,
        lane: Lane,
        watch: Callable[[float], None],
        begun: Callable[[LimitedQueue, Job], None],
        clock: Clock,
    ) -> None:
        """`watch` is told of deadlines, `begun` of attempts that come out of a limited queue."""
        self.lane = lane
        self.watch = watch
        self.begun = begun
        self.monotonic = clock.monotonic
        self.clean: contextvars.Context | None = None
        self.clean_values: list[tuple[contextvars.ContextVar[Any], Any]] = []
        self.runner: asyncio.Task[None] | None = None
        self.context: JobContext | None = None
        self.deadline: float | None = None
        self.began_at = 0.0
        self.stopped_by: StopReason | None = None
        self.stop_message = ""
        self.is_occupied = False
        self.is_started = False
        self.is_abandoned = False
        self.is_spoilt = False

    def remember_context(self) -> None:
        """Take the context variables as they are for those that every job is to begin with."""
        self.clean = clean = contextvars.copy_context()
        self.clean_values = list(clean.items())

    def has_other_values(self, context: contextvars.Context) -> bool:
        """Whether a job has set a variable in `context`, be it to a value that equals the former.

        Two contexts compare by their values' own `==`, which knows nothing of True and 1, or of two
        lists that are empty still.
        """
        return len(context) != len(self.clean_values) or any(
            context.get(variable, _UNSET) is not value for variable, value in self.clean_values
        )

    def began(self) -> None:
        """The function is about to run, after a wait for its thread or child: its time starts."""
        self.began_at = began_at = self.monotonic()
        timeout_s = timeout_of(self.job)
        if timeout_s is not None and self.stopped_by is None:
            self.deadline = deadline = began_at + timeout_s
            self.watch(deadline)
        if self.lane.limited is not None:
            self.begun(self.lane.limited, self.job)

    def interrupt(self) -> None:
        if self.runner is not None:
            self.runner.cancel()

    def request_stop(self, reason: StopReason, message: str = "") -> None:
        """Tell the running attempt to end, and set the time at which it is given up."""
        if self.stopped_by is not None or not self.is_occupied:
            return
        self.stopped_by = reason
        self.stop_message = message
        if self.is_started:
            executor: Executor = self.job.task.executor
            self.deadline = self.monotonic() + executor.stop_grace_s
            self.watch(self.deadline)
            executor.stop(self, reason)
