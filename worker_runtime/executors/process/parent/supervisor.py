"""Keeps the right number of children alive: starts, retires, watches and buries them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Any

import psutil

from worker_runtime.clock.source import Clock
from worker_runtime.executors.process.catalogue import TaskCatalogue
from worker_runtime.executors.process.parent.child import ChildProcess
from worker_runtime.executors.process.parent.spawner import Spawner, describe_status, retry_delay_s
from worker_runtime.executors.process.parent.work import (
    BUSY,
    IDLE,
    LEAVING,
    REPLACED,
    STARTING,
    WorkLine,
)
from worker_runtime.settings import ProcessSettings

logger = logging.getLogger("worker_runtime.executors")

_MEMORY_CHECK_S = 0.25
_IDLE_CHECK_S = 1.0


class Supervisor:
    """Owns every child from its start to its funeral; the work in them is `line`'s business.

    Children that were retired or abandoned no longer count for the size, so that their replacement
    need not wait for their death. One more is started for work that waits, unless those there are
    will have done it before the new one is warm.
    """

    def __init__(
        self,
        catalogue: TaskCatalogue,
        limits: ProcessSettings,
        line: WorkLine[ChildProcess],
        clock: Clock,
    ) -> None:
        self.clock = clock
        cores = os.cpu_count() or 1
        self.size_max = limits.size_max or min(256, cores)
        self.size_min = min(limits.size_min, self.size_max)
        self.grace_s = limits.grace_s
        self.term_grace_s = limits.term_grace_s
        self.loop: asyncio.AbstractEventLoop
        self.children: dict[int, ChildProcess] = {}  # by token
        self.leaving: dict[int, ChildProcess] = {}
        self.abandoned: set[int] = set()
        self.restarts = dict.fromkeys(REPLACED, 0)
        self._limits = limits
        self._line = line
        self._by_pid: dict[int, ChildProcess] = {}
        self._tokens = 0
        self._failures = 0
        self._last_failure = ""
        self._retry_timer: asyncio.TimerHandle | None = None
        self._tend_timer: asyncio.TimerHandle | None = None
        self._overdue_timer: asyncio.TimerHandle | None = None
        self._start_s = 0.0  # what the last start took
        self._changed = asyncio.Event()
        self._is_closed = False
        self._spawner = Spawner(
            catalogue,
            self,
            clock,
            preload=limits.preload,
            memory_bytes_max=limits.child_memory_bytes_max,
            threads_per_child=max(1, cores // self.size_max),
            start_timeout_s=limits.start_timeout_s,
        )

    async def open(self) -> None:
        """Start the smallest number of children and wait until they are warm, or a start has failed
        once. Raises ConfigurationError where the tasks' modules do not import. Leaves nothing
        behind where it does not come to its end."""
        self.loop = asyncio.get_running_loop()
        try:
            await self._spawner.open()
            self._tend()
            while self._failures == 0 and any(c.state is STARTING for c in self.children.values()):
                self._changed.clear()
                await self._changed.wait()
        except BaseException:
            for child in list(self.children.values()):
                child.kill()
            await self.close(self.term_grace_s)
            raise

    async def close(self, within_s: float) -> None:
        """Retire what is idle, wait for the rest, and kill what is left after `within_s`."""
        self._is_closed = True
        for timer in (self._retry_timer, self._tend_timer, self._overdue_timer):
            if timer is not None:
                timer.cancel()
        for child in list(self.children.values()):
            if child.state is not BUSY:
                self.retire(child, "closed")
        try:
            async with asyncio.timeout(within_s):
                while self.children or self.leaving:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            logger.warning("child processes did not end in time and are killed")
        await self._spawner.close()
        for child in [*self.children.values(), *self.leaving.values()]:
            self._bury(child, signal.SIGKILL)

    @property
    def is_full(self) -> bool:
        return len(self.children) >= self.size_max

    def fill(self, *, is_overdue: bool = False) -> None:
        """Start children while fewer are there than the smallest number, or than work waits for
        that is worth a start, or was not and is still there."""
        if self._is_closed or self._retry_timer is not None or not self._spawner.is_ready:
            return
        starting = sum(child.state is STARTING for child in self.children.values())
        while not self.is_full and (
            len(self.children) < self.size_min or self._is_wanted(starting, is_overdue=is_overdue)
        ):
            if len(self.abandoned) > self.size_max or not self._start_child():
                return
            starting += 1

    def _is_wanted(self, starting: int, *, is_overdue: bool) -> bool:
        """Whether work waits for one more child and outlasts its start, as far as recent jobs and
        the last start tell. Where it should not, it is looked at again after that time."""
        backlog = self._line.backlog()
        if starting >= backlog:
            return False
        warm, service_s = len(self.children) - starting, self._line.service_s
        if is_overdue or not warm or not service_s:
            return True
        if service_s * (1 + backlog / warm) >= self._start_s:
            return True
        if self._overdue_timer is None:
            self._overdue_timer = self.loop.call_later(self._start_s, self._look_again)
        return False

    def _look_again(self) -> None:
        self._overdue_timer = None
        self.fill(is_overdue=True)

    def retire(self, child: ChildProcess, reason: str) -> None:
        """Let an idle child end, and count it no more."""
        self.leave(child)
        child.retire(reason, self.grace_s + self.term_grace_s)

    def leave(self, child: ChildProcess) -> None:
        """It counts for the size no more; what is left of it is its exit."""
        child.state = LEAVING
        if self.children.pop(child.token, None) is not None:
            self.leaving[child.token] = child

    def abandon(self, token: int) -> None:
        """Even SIGKILL did not end it in time (it hangs in the kernel): do without it."""
        child = self.children.get(token) or self.leaving[token]
        child.kill()
        self.abandoned.add(token)
        self.leave(child)
        logger.error("child process %s cannot be killed and is abandoned", child.pid)
        self.fill()

    # What the spawner tells

    def spawner_ready(self) -> None:
        self.fill()

    def child_forked(self, token: int, pid: int) -> None:
        child = self.children.get(token) or self.leaving.get(token)
        if child is not None:
            child.set_pid(pid)
            self._by_pid[pid] = child
            if child.is_doomed or child.is_silent:
                self._spawner.signal(pid, signal.SIGKILL)

    def child_not_forked(self, token: int, error: str) -> None:
        child = self.children.get(token) or self.leaving.get(token)
        if child is not None:
            self._start_failed(f"a child process cannot be forked: {error}")
            self._forget(child)

    def child_exited(self, pid: int, status: int) -> None:
        child = self._by_pid.get(pid)
        if child is not None:
            self._bury(child, status)

    def spawner_lost(self) -> None:
        for child in [*self.children.values(), *self.leaving.values()]:
            child.is_orphan = True
            if child.is_silent or child.state is STARTING:
                self._bury(child, None)

    # What children tell

    def child_ready(self, child: ChildProcess) -> None:
        if child.state is not STARTING or child.is_doomed:
            return
        self._failures = 0
        self._last_failure = ""
        child.state = IDLE
        child.was_ready = True
        self._start_s = self.clock.monotonic() - child.started_at
        self._line.child_free(child)
        self._changed.set()

    def setup_failed(self, child: ChildProcess, text: str) -> None:
        self._start_failed(f"a child process could not be set up:\n{text}")
        self.leave(child)

    def child_silent(self, child: ChildProcess) -> None:
        if child.is_orphan:  # nobody else will tell of its end
            self.send_signal(child, signal.SIGKILL)
            self.loop.call_soon(self._bury, child, None)
        elif child.pid is not None:  # a dead one keeps its status; a living one is of no use
            self._spawner.signal(child.pid, signal.SIGKILL)

    def send_signal(self, child: ChildProcess, number: int) -> None:
        if child.pid is None:
            return
        if not child.is_orphan:
            self._spawner.signal(child.pid, number)
        elif not child.is_silent:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    # Starting and burying

    def _start_child(self) -> bool:
        self._tokens += 1
        child: ChildProcess | None = None
        try:
            child = ChildProcess(self, self._line, self._tokens)
            self._spawner.fork(child.token, child.child_ends)
        except OSError as error:
            self._start_failed(f"a child process cannot be started: {error}")
            if child is not None:
                child.close()
            return False
        child.close_child_ends()
        self.children[child.token] = child
        return True

    def _start_failed(self, text: str) -> None:
        """Say so, once for each cause, and start no child for a while."""
        self._failures += 1
        self.restarts["start_failed"] += 1
        delay_s = retry_delay_s(self._failures)
        if text != self._last_failure:
            self._last_failure = text
            logger.error("%s\nnext try in %g s, then at growing intervals", text, delay_s)
        self._changed.set()
        if self._retry_timer is None and not self._is_closed:
            self._retry_timer = self.loop.call_later(delay_s, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        self.fill()

    def _bury(self, child: ChildProcess, status: int | None) -> None:
        """A child is dead: hear its last words, let its work be ended, and replace it if needed."""
        if child.token not in self.children and child.token not in self.leaving:
            return
        child.drain()
        if child.state is STARTING:
            if not self._is_closed:
                self._start_failed(f"a child process {describe_status(status)[0]} in its start")
        elif child.was_ready:
            self._line.child_died(child, status)
            if child.leave_reason != "closed":
                self.restarts[child.leave_reason or "crashed"] += 1
        self._forget(child)
        self.fill()

    def _forget(self, child: ChildProcess) -> None:
        self.leave(child)
        self.leaving.pop(child.token, None)
        self.abandoned.discard(child.token)
        if child.pid is not None and self._by_pid.get(child.pid) is child:
            del self._by_pid[child.pid]
        child.close()
        self._changed.set()

    # Now and then

    def _tend(self) -> None:
        """Look after memory, slow starts and idleness, again and again."""
        limits = self._limits
        watches_memory = bool(limits.child_memory_bytes_max or limits.recycle_memory_bytes)
        now = self.clock.monotonic()
        for child in list(self.children.values()):
            if child.state is STARTING and now - child.started_at > limits.start_timeout_s:
                child.kill()
            elif watches_memory:
                self._check_memory(child)
        idle = [c for c in self.children.values() if c.state is IDLE]
        idle.sort(key=lambda child: child.idle_since)
        for child in idle[: max(0, len(self.children) - self.size_min)]:
            if now - child.idle_since > limits.idle_retire_s:
                self.retire(child, "idle")
        pause_s = _MEMORY_CHECK_S if watches_memory else _IDLE_CHECK_S
        self._tend_timer = self.loop.call_later(pause_s, self._tend)

    def _check_memory(self, child: ChildProcess) -> None:
        """The kernel refuses private memory above the limit; this sees what else is resident."""
        child.memory_bytes = memory_bytes(child)
        limit = self._limits.child_memory_bytes_max
        if limit is not None and child.memory_bytes > limit and not child.is_doomed:
            child.kill("memory_limit")

    def describe(self) -> list[dict[str, Any]]:
        """Each child as the API shows it."""
        now = self.clock.monotonic()
        return [
            {
                "pid": child.pid,
                "state": child.state.value,
                "job_id": None if child.work is None else child.work.job.id,
                "age_s": now - child.started_at,
                "memory_bytes": memory_bytes(child),
                "jobs_done": child.jobs_done,
            }
            for child in [*self.children.values(), *self.leaving.values()]
        ]


def memory_bytes(child: ChildProcess) -> int:
    """Resident memory, pages shared with the forkserver included; 0 where it cannot be read.

    Danger: psutil takes a pid of None, which a child has until its fork is told, for this process.
    """
    if child.pid is None:
        return 0
    try:
        return int(psutil.Process(child.pid).memory_info().rss)
    except (psutil.Error, OSError):
        return 0
