"""Runs tasks in child processes, each of which can be killed without any other noticing.

        start(call) ── encoded ──> idle child ──────────────> answer ──> the call's future
                           │            ^                        │
                           └─> waiting ─┴── next work at once <──┘

Which child runs what is decided here. How many children there are is the `supervisor`'s business;
one child's sockets and stop ladder are `child`; starting and reaping are `spawner` and, in a
process of its own, the `forkserver`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ConfigurationError, ExecutorFull
from worker_runtime.executors.boundary import Call
from worker_runtime.executors.process import frames
from worker_runtime.executors.process.catalogue import catalogue
from worker_runtime.executors.process.parent.child import ChildProcess
from worker_runtime.executors.process.parent.supervisor import Supervisor
from worker_runtime.executors.process.parent.work import BUSY, IDLE, LEAVING, STARTING, Work
from worker_runtime.model.states import StopReason
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.settings import ProcessSettings

_DEATHS_MAX = 3
"""Children that may die with a work unread before it counts as having crashed them."""

_RECLAIM_S = 0.005
"""How long a work may wait behind a running one before another free child gets it."""

_CLOSE_MARGIN_S = 2.0


class ProcessExecutor:
    """Runs tasks in child processes; see `ProcessSettings` for its limits.

    A job that is told to stop goes down a ladder: its context's flag (an async task is cancelled),
    after `grace_s` SIGTERM, which raises JobInterrupted in the task, after `term_grace_s` SIGKILL.
    A signal goes to everything that the child started.
    """

    needs_context = False

    def __init__(
        self,
        tasks: Sequence[TaskDefinition],
        clock: Clock,
        settings: ProcessSettings | None = None,
    ) -> None:
        """Raises ConfigurationError for limits out of range, and for a task or setup that a child
        could not import."""
        self._monotonic = clock.monotonic
        self._limits = limits = _checked(settings or ProcessSettings())
        self._supervisor = Supervisor(catalogue(tasks, limits.setup), limits, self, clock)
        self.stop_grace_s = limits.grace_s + limits.term_grace_s + _CLOSE_MARGIN_S
        self._loop: asyncio.AbstractEventLoop
        self._idle: list[ChildProcess] = []  # the most recently used last; some may have left
        self._waiting: deque[Work] = deque()
        self._works: dict[Call, Work] = {}
        self._reclaim_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._jobs_done = 0
        self._queue_wait_s = 0.0
        self._encode_s = 0.0
        self.transfer_s = 0.0
        self.service_s = 0.0

    # The Executor protocol

    async def open(self) -> None:
        """Start the smallest number of children and wait until they are warm, or a start has failed
        once. Raises ConfigurationError where the tasks' modules do not import."""
        self._loop = asyncio.get_running_loop()
        await self._supervisor.open()

    def start(self, call: Call) -> Work:
        """Encode the call and run it in a free child, or when one is free."""
        if self._is_closed:
            raise ExecutorFull("the process executor is closed")
        job = call.job
        label = None if job.options is None else job.options.label
        began = self._monotonic()
        try:
            request = frames.pack(
                (job.task.name, job.args, job.kwargs, job.id, job.queue, job.attempt, label)
            )
        except Exception as error:
            raise TypeError(
                f"the arguments of {job.task.name!r} cannot be sent to a child process: {error}"
            ) from error
        now = self._monotonic()
        self._encode_s += now - began
        work = self._works[call] = Work(self, call, request, now, self._loop)
        child = self._idle_child()
        if child is not None:
            child.run(work)
        else:
            self._waiting.append(work)
            if not self._supervisor.is_full:
                self._supervisor.fill()
        return work

    def stop(self, call: Call, reason: StopReason) -> None:
        work = self._works.get(call)
        if work is None:
            return
        if not self._stop_work(work, reason.value) and not work.done():
            call.interrupt()  # nothing of it runs yet

    def abandon(self, call: Call) -> None:
        work = self._works.pop(call, None)
        if work is not None and work.child is not None:
            child = work.child
            work.cancel()
            self._supervisor.abandon(child.token)

    def statistics(self) -> dict[str, Any]:
        """Figures of now and, where the name ends in `_s` or counts, totals since the start."""
        supervisor = self._supervisor
        states = [child.state for child in supervisor.children.values()]
        in_line = sum(max(0, len(c.in_flight) - 1) for c in supervisor.children.values())
        return {
            "size": len(states),
            "size_min": supervisor.size_min,
            "size_max": supervisor.size_max,
            "busy": states.count(BUSY),
            "idle": states.count(IDLE),
            "starting": states.count(STARTING),
            "waiting": len(self._waiting) + in_line,
            "abandoned": len(supervisor.abandoned),
            "restarts": dict(supervisor.restarts),
            "jobs_done": self._jobs_done,
            "queue_wait_s": self._queue_wait_s,
            "encode_s": self._encode_s,
            "transfer_s": self.transfer_s,
            "children": supervisor.describe(),
        }

    async def close(self) -> None:
        """Stop what runs, let idle children leave their setup, then end every child that is left.
        Bounded by the two graces and a few seconds more."""
        self._is_closed = True
        if self._reclaim_timer is not None:
            self._reclaim_timer.cancel()
        for work in [*self._waiting]:
            work.cancel()
        for child in [*self._supervisor.children.values()]:
            for work in [*child.in_flight]:
                if not self._stop_work(work, StopReason.SHUTDOWN.value):
                    work.cancel()
        await self._supervisor.close(self.stop_grace_s)

    # What work and children tell

    def forsaken(self, work: Work) -> None:
        self._forget(work)
        if not self._stop_work(work, StopReason.CANCEL.value):
            with contextlib.suppress(ValueError):
                self._waiting.remove(work)

    def child_answered(self, child: ChildProcess, work: Work) -> None:
        self._forget(work)
        self._jobs_done += 1
        if not child.in_flight:
            self.child_free(child)
        elif self._waiting and child.has_room(self._waiting[0]):
            self._prefetch(child)

    def child_free(self, child: ChildProcess) -> None:
        """A child has nothing to do: retire it if it is due, else give it what waited longest."""
        limits = self._limits
        if child.state is LEAVING:
            self._supervisor.leave(child)
        elif self._is_closed:
            self._supervisor.retire(child, "closed")
        elif limits.jobs_per_child_max and child.jobs_done >= limits.jobs_per_child_max:
            self._supervisor.retire(child, "jobs_done")
        elif limits.recycle_memory_bytes and child.memory_bytes > limits.recycle_memory_bytes:
            self._supervisor.retire(child, "memory_grown")
        elif self._waiting:
            self._run_next(child)
            if self._waiting and child.has_room(self._waiting[0]):
                self._prefetch(child)
            return
        else:
            child.idle_since = self._monotonic()
            self._idle.append(child)
            return
        self._supervisor.fill()

    def taken_back(self, child: ChildProcess, works: list[Work]) -> None:
        self._waiting.extendleft(reversed(works))
        if child.state is IDLE and child not in self._idle:
            self.child_free(child)
        self._serve_waiting()

    def child_died(self, child: ChildProcess, status: int | None) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(child)
        unread = child.take_back()
        lost = child.work
        if unread and lost is None:  # else it died of what ran
            unread[0].deaths += 1
            if unread[0].deaths >= _DEATHS_MAX:
                lost = unread.pop(0)
        self._waiting.extendleft(reversed(unread))
        if lost is not None:
            self._forget(lost)
            if not lost.done():
                lost.set_exception(child.crashed(status))
        self._serve_waiting()

    def backlog(self) -> int:
        return len(self._waiting)

    # Deciding

    def _idle_child(self) -> ChildProcess | None:
        """The idle child that worked last, so that those there are too many of grow old."""
        while self._idle:
            child = self._idle.pop()
            if child.state is IDLE:
                return child
        return None

    def _serve_waiting(self) -> None:
        while self._waiting:
            child = self._idle_child()
            if child is None:
                return
            self._run_next(child)

    def _run_next(self, child: ChildProcess) -> None:
        work = self._waiting.popleft()
        self._queue_wait_s += self._monotonic() - work.queued_at
        child.run(work)

    def _prefetch(self, child: ChildProcess) -> None:
        """Fill a quick child's line. Not while children could still be added, nor past the number
        of jobs after which it is replaced."""
        if not self._supervisor.is_full:
            return
        limit = self._limits.jobs_per_child_max
        while self._waiting and child.has_room(self._waiting[0]):
            if limit and child.jobs_done + len(child.in_flight) >= limit:
                return
            self._run_next(child)
            if self._reclaim_timer is None:
                self._reclaim_timer = self._loop.call_later(_RECLAIM_S, self._reclaim)

    def _reclaim(self) -> None:
        """Take back what waits in a child behind a job that is not so short after all."""
        self._reclaim_timer = None
        since = self._monotonic() - _RECLAIM_S
        lines = [c for c in self._supervisor.children.values() if len(c.in_flight) > 1]
        for child in lines:
            if child.busy_since < since:
                self.taken_back(child, child.take_back())
        if lines and not self._is_closed:
            self._reclaim_timer = self._loop.call_later(_RECLAIM_S, self._reclaim)

    def _forget(self, work: Work) -> None:
        """No longer the call's work. Its slot may have started another since it was cut short."""
        if self._works.get(work.call) is work:
            del self._works[work.call]

    def _stop_work(self, work: Work, reason: str) -> bool:
        """Stop a work that has begun; False where it has not."""
        child = work.child
        if child is None:
            return False
        if not child.stop(work, cooperates=work.job.task.is_cancellable):
            return False
        child.leave_reason = reason
        return True


def _checked(settings: ProcessSettings) -> ProcessSettings:
    raw = msgspec.structs.asdict(settings)
    try:
        return msgspec.convert(raw, ProcessSettings)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"process settings: {error}") from None
