"""A bounded pool of threads for sync functions, of which none can be killed and all are counted."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from queue import SimpleQueue
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ExecutorFull
from worker_runtime.executors.boundary import Call
from worker_runtime.executors.returned import discard
from worker_runtime.model.job import call_arguments
from worker_runtime.model.states import StopReason

logger = logging.getLogger("worker_runtime.executors")


class _Work:
    """One call on its way to a thread and its result on the way back.

    Holds what the thread needs: the call itself may serve another job by the time a thread that
    nobody waits for any more gets to look.
    """

    __slots__ = ("call", "context", "future", "is_abandoned", "job", "variables")

    def __init__(self, call: Call, future: asyncio.Future[Any]) -> None:
        self.call = call
        self.job = call.job
        self.context = call.context
        self.future = future
        self.variables = contextvars.copy_context()
        self.is_abandoned = False

    def tell_if_cancelled(self, future: asyncio.Future[Any]) -> None:
        """A middleware's timeout, for example, cancels the wait alone: the thread is told."""
        if future.cancelled() and self.context is not None:
            self.context.stop()


class _Worker(threading.Thread):
    """A thread that runs one piece of work at a time, handed to it by the loop.

    A daemon: a task that never returns must not keep the interpreter from ending.
    """

    def __init__(self, pool: ThreadExecutor, number: int) -> None:
        super().__init__(name=f"worker-runtime-{number}", daemon=True)
        self.inbox: SimpleQueue[_Work | None] = SimpleQueue()
        self.idle_since = 0.0
        self._pool = pool

    def run(self) -> None:
        while (work := self.inbox.get()) is not None:
            error: BaseException | None = None
            value: Any = None
            job = work.job
            try:
                value = work.variables.run(job.task.call, work.context, *call_arguments(job))
            except BaseException as raised:
                error = raised
            self._pool.returned(self, work, value, error)
            del work, job, value, error  # a thread that waits must hold nothing


class ThreadExecutor:
    """A bounded pool of threads for sync functions.

    A thread cannot be killed. `stop` sets the flag that `ctx.raise_if_cancelled()` reads; a task
    that does not look is abandoned: its thread runs on outside the pool and a new one takes its
    place, until `abandoned_max` threads are out there. After that the pool shrinks, and with no
    thread left `start` raises ExecutorFull.

    Threads are made when work waits for one, up to `size`, and end when they have been idle for
    `idle_max_s`: the one that worked last works next, so that those there are too many of grow old.
    """

    needs_context = False

    def __init__(
        self,
        clock: Clock,
        *,
        size: int,
        abandoned_max: int,
        stop_grace_s: float,
        idle_max_s: float = 30.0,
    ) -> None:
        self._monotonic = clock.monotonic
        self.stop_grace_s = stop_grace_s
        self._idle_max_s = idle_max_s
        self._trim_timer: asyncio.TimerHandle | None = None
        self._size = size
        self._abandoned_max = abandoned_max
        self._idle: list[_Worker] = []
        self._busy: set[_Work] = set()
        self._waiting: deque[_Work] = deque()
        self._abandoned = 0
        self._made = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()

    @property
    def _available(self) -> int:
        """How many threads the pool may have now."""
        return max(0, self._size - max(0, self._abandoned - self._abandoned_max))

    def start(self, call: Call) -> asyncio.Future[Any]:
        if self._is_closed:
            raise ExecutorFull("the threads are closed: the worker has stopped")
        if self._available == 0:
            raise self._no_thread_left()
        assert self._loop is not None, "open() comes first"
        work = _Work(call, self._loop.create_future())
        if self._idle or len(self._busy) < self._available:
            self._hand_over(work)
        else:
            self._waiting.append(work)
        return work.future

    def stop(self, call: Call, reason: StopReason) -> None:
        if call.context is not None:
            call.context.stop()
        if self._running_work(call) is None:  # it waits for a thread: nothing of it runs yet
            call.interrupt()

    def abandon(self, call: Call) -> None:
        work = self._running_work(call)
        if work is None:
            return
        work.is_abandoned = True
        self._busy.discard(work)
        self._abandoned += 1
        logger.warning(
            "thread abandoned: job %s (%s) did not stop; %d such threads",
            call.job.id,
            call.job.task.name,
            self._abandoned,
        )
        self._start_waiting()
        if self._available == 0:  # perhaps for ever: say so instead of letting them wait
            while self._waiting:
                _settle(self._waiting.popleft().future, None, self._no_thread_left())

    def returned(
        self, worker: _Worker, work: _Work, value: Any, error: BaseException | None
    ) -> None:
        """For the pool's own threads: bring a result to the loop."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._finish, worker, work, value, error)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more
        else:
            if not self._is_closed:
                return
        worker.inbox.put(None)  # the loop may never run again, and would say no more than this

    def statistics(self) -> dict[str, Any]:
        return {
            "size": self._available,
            "busy": len(self._busy),
            "waiting": len(self._waiting),
            "abandoned": self._abandoned,
        }

    async def close(self) -> None:
        self._is_closed = True
        if self._trim_timer is not None:
            self._trim_timer.cancel()
        while self._waiting:
            self._waiting.popleft().future.cancel()
        while self._idle:
            self._idle.pop().inbox.put(None)

    def _hand_over(self, work: _Work) -> None:
        if self._idle:
            worker = self._idle.pop()
        else:
            self._made += 1
            worker = _Worker(self, self._made)
            worker.start()
        self._busy.add(work)
        if work.context is not None:
            work.future.add_done_callback(work.tell_if_cancelled)
        work.call.began()
        worker.inbox.put(work)

    def _finish(
        self, worker: _Worker, work: _Work, value: Any, error: BaseException | None
    ) -> None:
        if work.is_abandoned:
            self._abandoned -= 1
        else:
            self._busy.discard(work)
        _settle(work.future, value, error)
        if self._is_closed or len(self._busy) + len(self._idle) >= self._available:
            worker.inbox.put(None)
        else:
            worker.idle_since = self._monotonic()
            self._idle.append(worker)
            if self._trim_timer is None:
                self._set_trim_timer(self._idle_max_s)
        self._start_waiting()

    def _trim(self) -> None:
        """End the threads that have been idle for too long, and look again when the next is due."""
        self._trim_timer = None
        now = self._monotonic()
        while self._idle and now - self._idle[0].idle_since >= self._idle_max_s:
            self._idle.pop(0).inbox.put(None)
        if self._idle:
            self._set_trim_timer(self._idle_max_s - (now - self._idle[0].idle_since))

    def _set_trim_timer(self, delay_s: float) -> None:
        assert self._loop is not None
        self._trim_timer = self._loop.call_later(delay_s, self._trim)

    def _running_work(self, call: Call) -> _Work | None:
        return next((w for w in self._busy if w.call is call and not w.future.done()), None)

    def _no_thread_left(self) -> ExecutorFull:
        return ExecutorFull(
            f"no thread is left: {self._abandoned} are held by tasks that did not stop"
        )

    def _start_waiting(self) -> None:
        while self._waiting and (self._idle or len(self._busy) < self._available):
            work = self._waiting.popleft()
            if not work.future.done():
                self._hand_over(work)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():  # its awaiter was cancelled
        discard(value)
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):
        # A future refuses StopIteration, and an awaiter would hang. Coroutines turn it into a
        # RuntimeError (PEP 479); so does this.
        wrapped = RuntimeError("the task raised StopIteration")
        wrapped.__cause__ = error
        future.set_exception(wrapped)
    else:
        future.set_exception(error)
