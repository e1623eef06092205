"""A bounded pool of child processes, each of which can be killed without any other noticing.

        start(call) ── encoded ──> idle child ──────────────> answer ──> the call's future
                           │            ^                        │
                           └─> waiting ─┴── next work at once <──┘

The pool decides which child runs what, how many there are, and what a death means. One child's
sockets and stop ladder are `child_process`; starting and reaping are `spawner` and `forkserver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import msgspec
import psutil

from worker_runtime.errors import ConfigurationError, ExecutorFull
from worker_runtime.executors import Call, wire
from worker_runtime.executors.child_process import (
    BUSY,
    IDLE,
    LEAVING,
    STARTING,
    ChildProcess,
    Work,
)
from worker_runtime.executors.spawner import Spawner, describe_status, retry_delay_s
from worker_runtime.executors.task_catalogue import catalogue
from worker_runtime.job import StopReason
from worker_runtime.settings import ProcessSettings
from worker_runtime.task import TaskDefinition

logger = logging.getLogger("worker_runtime.executors")

_DEATHS_MAX = 3
"""Children that may die with a work unread before it counts as having crashed them."""

_RECLAIM_S = 0.005
"""How long a work may wait behind a running one before another free child gets it."""

_CLOSE_MARGIN_S = 2.0
_MEMORY_CHECK_S = 0.25
_IDLE_CHECK_S = 1.0


class ProcessExecutor:
    """Runs tasks in child processes; see `ProcessSettings` for its limits.

    A job that is told to stop goes down a ladder: its context's flag (an async task is cancelled),
    after `grace_s` SIGTERM, which raises JobInterrupted in the task, after `term_grace_s` SIGKILL.
    A signal goes to everything that the child started.
    """

    needs_context = False

    def __init__(
        self, tasks: Sequence[TaskDefinition], settings: ProcessSettings | None = None
    ) -> None:
        """Raises ConfigurationError for limits out of range, and for a task or setup that a child
        could not import."""
        self._settings = limits = _checked(settings or ProcessSettings())
        self._size_max = limits.size_max or min(256, os.cpu_count() or 1)
        self._size_min = min(limits.size_min, self._size_max)
        self.grace_s = limits.grace_s
        self.term_grace_s = limits.term_grace_s
        self.stop_grace_s = limits.grace_s + limits.term_grace_s + _CLOSE_MARGIN_S
        self._spawner = Spawner(
            catalogue(tasks, limits.setup),
            self,
            preload=limits.preload,
            memory_bytes_max=limits.child_memory_bytes_max,
            threads_per_child=max(1, (os.cpu_count() or 1) // self._size_max),
            start_timeout_s=limits.start_timeout_s,
        )
        self.loop: asyncio.AbstractEventLoop
        self._children: dict[int, ChildProcess] = {}  # by token; those that count for the size
        self._leaving: dict[int, ChildProcess] = {}
        self._by_pid: dict[int, ChildProcess] = {}
        self._idle: list[ChildProcess] = []  # the most recently used last
        self._waiting: deque[Work] = deque()
        self._works: dict[Call, Work] = {}
        self._tokens = 0
        self._failures = 0
        self._last_failure = ""
        self._retry_timer: asyncio.TimerHandle | None = None
        self._tend_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._is_closed = False
        self._abandoned: set[int] = set()
        self._reclaim_timer: asyncio.TimerHandle | None = None
        self._restarts: Counter[str] = Counter()
        self._jobs_done = 0
        self._queue_wait_s = 0.0
        self._encode_s = 0.0
        self.transfer_s = 0.0

    # The Executor protocol

    async def open(self) -> None:
        """Start the smallest number of children and wait until they are warm, or their setup has
        failed for the first time. Raises ConfigurationError where the tasks do not import."""
        self.loop = asyncio.get_running_loop()
        try:
            await self._spawner.open()
        except BaseException:
            await self.close()
            raise
        self._tend()
        while self._failures == 0 and any(c.state is STARTING for c in self._children.values()):
            self._changed.clear()
            await self._changed.wait()

    def start(self, call: Call) -> Work:
        """Encode the call and run it in a free child, or when one is free."""
        if self._is_closed:
            raise ExecutorFull("the process executor is closed")
        job = call.job
        label = None if job.options is None else job.options.label
        began = time.perf_counter()
        try:
            request = wire.pack(
                (job.task.name, job.args, job.kwargs, job.id, job.queue, job.attempt, label)
            )
        except Exception as error:
            raise TypeError(
                f"the arguments of {job.task.name!r} cannot be sent to a child process: {error}"
            ) from error
        now = time.perf_counter()
        self._encode_s += now - began
        work = self._works[call] = Work(self, call, request, now)
        if self._idle:
            self._idle.pop().run(work)
        else:
            self._waiting.append(work)
            self._fill()
        return work

    def stop(self, call: Call, reason: StopReason) -> None:
        work = self._works.get(call)
        if work is None:
            return
        if not self._stop_work(work, reason.value) and not work.done():
            call.interrupt()  # nothing of it runs yet

    def abandon(self, call: Call) -> None:
        """Even SIGKILL did not end the child in time (it hangs in the kernel): do without it."""
        work = self._works.pop(call, None)
        if work is None or work.child is None:
            return
        child = work.child
        child.kill()
        self._abandoned.add(child.token)
        self._leave(child)
        logger.error("child process %s cannot be killed and is abandoned", child.pid)
        self._fill()

    def statistics(self) -> dict[str, Any]:
        """Figures of now and, where the name ends in `_s` or counts, totals since the start."""
        now = time.monotonic()
        children = [*self._children.values(), *self._leaving.values()]
        return {
            "size": len(self._children),
            "size_min": self._size_min,
            "size_max": self._size_max,
            "busy": sum(c.state is BUSY for c in children),
            "idle": len(self._idle),
            "starting": sum(c.state is STARTING for c in children),
            "waiting": len(self._waiting)
            + sum(max(0, len(c.in_flight) - 1) for c in self._children.values()),
            "abandoned": len(self._abandoned),
            "restarts": dict(self._restarts),
            "jobs_done": self._jobs_done,
            "queue_wait_s": self._queue_wait_s,
            "encode_s": self._encode_s,
            "transfer_s": self.transfer_s,
            "children": [_describe(child, now) for child in children],
        }

    async def close(self) -> None:
        """Stop what runs, let idle children leave their setup, then end every child that is left.
        Bounded by the two graces and two seconds more."""
        self._is_closed = True
        for timer in (self._retry_timer, self._tend_timer, self._reclaim_timer):
            if timer is not None:
                timer.cancel()
        for work in [w for w in self._works.values() if w.child is None]:
            work.cancel()
        for work in list(self._works.values()):
            self._stop_work(work, StopReason.SHUTDOWN.value)
        for child in list(self._children.values()):
            if child.state is not BUSY:
                self._retire(child, "closed")
        try:
            async with asyncio.timeout(self.stop_grace_s):
                while self._children or self._leaving:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            logger.warning("child processes did not end in time and are killed")
        await self._spawner.close()
        for child in [*self._children.values(), *self._leaving.values()]:
            self._gone(child, signal.SIGKILL)

    # What the spawner tells

    def spawner_ready(self) -> None:
        self._fill()

    def child_forked(self, token: int, pid: int) -> None:
        child = self._children.get(token) or self._leaving.get(token)
        if child is not None:
            child.set_pid(pid)
            self._by_pid[pid] = child
            if child.is_doomed or child.is_silent:
                self._spawner.signal(pid, signal.SIGKILL)

    def child_not_forked(self, token: int, error: str) -> None:
        child = self._children.get(token) or self._leaving.get(token)
        if child is not None:
            self._start_failed(f"a child process cannot be forked: {error}")
            self._forget(child)

    def child_exited(self, pid: int, status: int) -> None:
        child = self._by_pid.get(pid)
        if child is not None:
            self._gone(child, status)

    def spawner_lost(self) -> None:
        for child in list(self._by_pid.values()):
            child.is_orphan = True
            if child.is_silent or child.state is STARTING:
                self._gone(child, None)

    # What children tell

    def child_ready(self, child: ChildProcess) -> None:
        if child.state is not STARTING:
            return
        self._failures = 0
        self._last_failure = ""
        child.state = IDLE
        self._rest_or_leave(child)
        self._changed.set()

    def setup_failed(self, child: ChildProcess, text: str) -> None:
        self._start_failed(f"a child process could not be set up:\n{text}")
        child.leave_reason = "setup_failed"
        self._leave(child)

    def child_answered(self, child: ChildProcess, work: Work) -> None:
        self._works.pop(work.call, None)
        self._jobs_done += 1
        if not child.in_flight:
            self._rest_or_leave(child)
        elif self._waiting and child.has_room(self._waiting[0]):
            self._prefetch(child)

    def taken_back(self, child: ChildProcess, works: list[Work]) -> None:
        self._waiting.extendleft(reversed(works))
        if child.state is IDLE and child not in self._idle:
            self._rest_or_leave(child)
        while self._waiting and self._idle:
            self._run_next(self._idle.pop())

    def child_silent(self, child: ChildProcess) -> None:
        if child.is_orphan:  # nobody else will tell of its end
            self.send_signal(child, signal.SIGKILL)
            self.loop.call_soon(self._gone, child, None)
        elif child.pid is not None:  # a dead one keeps its status; a living one is of no use
            self._spawner.signal(child.pid, signal.SIGKILL)

    def forsaken(self, work: Work) -> None:
        if not self._stop_work(work, StopReason.CANCEL.value):
            self._works.pop(work.call, None)
            with contextlib.suppress(ValueError):
                self._waiting.remove(work)

    def send_signal(self, child: ChildProcess, number: int) -> None:
        if child.pid is None:
            return
        if not child.is_orphan:
            self._spawner.signal(child.pid, number)
        elif not child.is_silent:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    # Deciding

    def _rest_or_leave(self, child: ChildProcess) -> None:
        """A child has nothing left to do: replace it where it is due, else give it what waits."""
        limits = self._settings
        if child.state is LEAVING:
            self._leave(child)
            self._fill()
        elif limits.jobs_per_child_max and child.jobs_done >= limits.jobs_per_child_max:
            self._retire(child, "jobs_done")
            self._fill()
        elif limits.recycle_memory_bytes and child.memory_bytes > limits.recycle_memory_bytes:
            self._retire(child, "memory_grown")
            self._fill()
        elif self._is_closed:
            self._retire(child, "closed")
        else:
            self._offer(child)

    def _offer(self, child: ChildProcess) -> None:
        """Give an idle child the work that waited longest, or rest."""
        if self._waiting:
            self._run_next(child)
            if self._waiting and child.has_room(self._waiting[0]):
                self._prefetch(child)
        else:
            child.idle_since = time.monotonic()
            self._idle.append(child)

    def _run_next(self, child: ChildProcess) -> None:
        work = self._waiting.popleft()
        self._queue_wait_s += time.perf_counter() - work.queued_at
        child.run(work)

    def _prefetch(self, child: ChildProcess) -> None:
        """Fill a quick child's line. Not while children could still be added, nor past the number of
        jobs after which it is replaced."""
        if len(self._children) < self._size_max:
            return
        limit = self._settings.jobs_per_child_max
        while self._waiting and child.has_room(self._waiting[0]):
            if limit and child.jobs_done + len(child.in_flight) >= limit:
                return
            self._run_next(child)
            if self._reclaim_timer is None:
                self._reclaim_timer = self.loop.call_later(_RECLAIM_S, self._reclaim)

    def _reclaim(self) -> None:
        """Take back what waits in a child behind a job that is not so short after all."""
        self._reclaim_timer = None
        since = time.perf_counter() - _RECLAIM_S
        lines = [child for child in self._children.values() if len(child.in_flight) > 1]
        for child in lines:
            if child.busy_since < since:
                self.taken_back(child, child.take_back())
        if lines and not self._is_closed:
            self._reclaim_timer = self.loop.call_later(_RECLAIM_S, self._reclaim)

    def _stop_work(self, work: Work, reason: str) -> bool:
        """Stop a work that has begun; False where it has not."""
        child = work.child
        if child is None:
            return False
        task = work.call.job.task
        cooperates = task.is_async or task.signature.context_name is not None
        if not child.stop(work, cooperates=cooperates):
            return False
        child.leave_reason = reason
        return True

    def _fill(self) -> None:
        """Start children while fewer are there than the smallest number, or than work waits for."""
        if self._is_closed or self._retry_timer is not None or not self._spawner.is_ready:
            return
        starting = sum(c.state is STARTING for c in self._children.values())
        while len(self._children) < self._size_max and (
            len(self._children) < self._size_min or starting < len(self._waiting)
        ):
            if len(self._abandoned) > self._size_max or not self._start_child():
                return
            starting += 1

    def _start_child(self) -> bool:
        self._tokens += 1
        try:
            child = ChildProcess(self, self._tokens)
        except OSError as error:
            self._start_failed(f"a child process cannot be started: {error}")
            return False
        try:
            self._spawner.fork(child.token, child.child_ends)
        except OSError as error:
            self._start_failed(f"a child process cannot be started: {error}")
            child.close()
            return False
        child.close_child_ends()
        self._children[child.token] = child
        return True

    def _start_failed(self, text: str) -> None:
        """Say so, once for each cause, and start no child for a while."""
        self._failures += 1
        delay_s = retry_delay_s(self._failures)
        if text != self._last_failure:
            self._last_failure = text
            logger.error("%s\nnext try in %g s", text, delay_s)
        self._changed.set()
        self._restarts["start_failed"] += 1
        if self._retry_timer is None and not self._is_closed:
            self._retry_timer = self.loop.call_later(delay_s, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        self._fill()

    def _leave(self, child: ChildProcess) -> None:
        """It counts for the size no more; what is left of it is its exit."""
        child.state = LEAVING
        if self._children.pop(child.token, None) is not None:
            self._leaving[child.token] = child
        if child in self._idle:
            self._idle.remove(child)

    def _retire(self, child: ChildProcess, reason: str) -> None:
        self._leave(child)
        child.retire(reason, self.grace_s + self.term_grace_s)

    def _gone(self, child: ChildProcess, status: int | None) -> None:
        """A child is dead: end its work truthfully, and replace it where it is needed."""
        if child.token not in self._children and child.token not in self._leaving:
            return
        was_starting = child.state is STARTING
        child.drain()
        if was_starting and child.state is STARTING and not self._is_closed:
            self._start_failed(f"a child process {describe_status(status)[0]} while it started")
        unread = child.take_back()
        for work in unread[:1]:
            work.deaths += 1
        work_lost = child.work
        if unread and unread[0].deaths >= _DEATHS_MAX:
            work_lost = unread.pop(0)
        self._waiting.extendleft(reversed(unread))
        if work_lost is not None:
            self._works.pop(work_lost.call, None)
            if not work_lost.done() and child.token not in self._abandoned:
                work_lost.set_exception(child.crashed(status))
        if not was_starting and child.leave_reason not in ("closed", "setup_failed"):
            self._restarts[child.leave_reason or "crashed"] += 1
        self._forget(child)
        while self._waiting and self._idle:
            self._run_next(self._idle.pop())
        self._fill()

    def _forget(self, child: ChildProcess) -> None:
        self._leave(child)
        self._leaving.pop(child.token, None)
        self._abandoned.discard(child.token)
        if child.pid is not None and self._by_pid.get(child.pid) is child:
            del self._by_pid[child.pid]
        child.close()
        self._changed.set()

    # Now and then

    def _tend(self) -> None:
        """Look at memory and idleness, again and again."""
        limits = self._settings
        watches_memory = bool(limits.child_memory_bytes_max or limits.recycle_memory_bytes)
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.state is STARTING and now - child.started_at > limits.start_timeout_s:
                child.kill("setup_failed")
            elif watches_memory:
                self._check_memory(child)
        while (
            self._idle
            and len(self._children) > self._size_min
            and now - self._idle[0].idle_since > limits.idle_retire_s
        ):
            self._retire(self._idle[0], "idle")
        pause_s = _MEMORY_CHECK_S if watches_memory else _IDLE_CHECK_S
        self._tend_timer = self.loop.call_later(pause_s, self._tend)

    def _check_memory(self, child: ChildProcess) -> None:
        """The kernel refuses private memory above the limit; this sees what else is resident."""
        child.memory_bytes = _memory_bytes(child)
        limit = self._settings.child_memory_bytes_max
        if limit is not None and child.memory_bytes > limit and not child.is_doomed:
            child.kill("memory_limit")


def _checked(settings: ProcessSettings) -> ProcessSettings:
    raw = msgspec.structs.asdict(settings)
    try:
        return msgspec.convert(raw, ProcessSettings)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"process settings: {error}") from None


def _memory_bytes(child: ChildProcess) -> int:
    """Resident memory, pages shared with the forkserver included; 0 where it cannot be read."""
    try:
        return int(psutil.Process(child.pid).memory_info().rss)
    except (psutil.Error, OSError):
        return 0


def _describe(child: ChildProcess, now: float) -> dict[str, Any]:
    return {
        "pid": child.pid,
        "state": child.state.value,
        "job_id": None if child.work is None else child.work.call.job.id,
        "age_s": now - child.started_at,
        "memory_bytes": _memory_bytes(child),
        "jobs_done": child.jobs_done,
    }
