"""Notices a job that blocks the event loop: a thread measures the loop's lag and names the job."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.model.job import Job

logger = logging.getLogger("worker_runtime.watchdog")

_INTERVAL_S = 0.1
_FRAMES_MAX = 15


class Watchdog:
    """Sends the loop a heartbeat every 0.1 s and measures how late it is answered.

    An answer later than `warn_s` is logged once per blockage, with the running job's name and the
    stack of the loop's thread, while the blockage still lasts.
    """

    def __init__(
        self,
        job_of_task: Callable[[asyncio.Task[Any]], Job | None],
        clock: Clock,
        *,
        warn_s: float,
    ) -> None:
        self._job_of_task = job_of_task
        self._monotonic = clock.monotonic
        self._warn_s = warn_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread_id = 0
        self._answered = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent_at = 0.0
        self._last_lag_s = 0.0
        self.blocked_count = 0

    @property
    def lag_s(self) -> float:
        """Seconds between a heartbeat and its answer: the last one, or the one still awaited."""
        if self._thread is not None and not self._answered.is_set():
            return max(self._last_lag_s, self._monotonic() - self._sent_at)
        return self._last_lag_s

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread_id = threading.get_ident()
        self._thread = threading.Thread(
            target=self._watch, name="worker-runtime-watchdog", daemon=True
        )
        self._answered.set()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._answered.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            self._thread = None

    def _watch(self) -> None:
        assert self._loop is not None
        while not self._stopping.wait(_INTERVAL_S):
            self._answered.clear()
            self._sent_at = self._monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop is closed
                return
            if not self._answered.wait(self._warn_s):
                if not self._stopping.is_set():
                    self._report()
                while not self._answered.wait(_INTERVAL_S) and not self._stopping.is_set():
                    pass
            self._last_lag_s = self._monotonic() - self._sent_at

    def _report(self) -> None:
        self.blocked_count += 1
        frame = sys._current_frames().get(self._loop_thread_id)
        stack = "".join(traceback.format_stack(frame)[-_FRAMES_MAX:]) if frame else "<no stack>\n"
        del frame
        logger.warning(
            "the event loop has been blocked for %.1f s by %s:\n%s",
            self._warn_s,
            self._culprit(),
            stack,
        )

    def _culprit(self) -> str:
        assert self._loop is not None
        try:
            runner = asyncio.current_task(self._loop)
            job = self._job_of_task(runner) if runner is not None else None
        except RuntimeError:  # what it reads changed meanwhile
            job = None
        return f"job {job.id} ({job.task.name})" if job is not None else "code outside of jobs"
