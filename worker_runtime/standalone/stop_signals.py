"""SIGTERM and SIGINT: the first one asks for an orderly stop, and the process ends after it in any
case."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.standalone.log_setup import log_now

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# One request to stop often arrives twice: from the terminal or container to the whole process
# group, and passed on by a parent such as make.
_ONE_REQUEST_S = 0.05


class StopRequest(asyncio.Event):
    """Set by the first stop signal, whose name is `cause` from then on."""

    cause = ""

    def ask(self, cause: str) -> None:
        self.cause = cause
        self.set()


class StopSignals:
    """Handles the stop signals for the length of a `with` block, then restores what was there.

    The first signal calls `on_stop` with its name on the loop. A second one, unless it is an echo
    of the first, ends the process at once with exit code 128 plus its number. If the block has not
    ended `ends_within_s` seconds after the first, the process ends with exit code 1.

    These are Python's own handlers rather than `loop.add_signal_handler`, because a job that blocks
    the loop would make the process deaf to the latter. Assumes the main thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_stop: Callable[[str], None],
        clock: Clock,
        *,
        ends_within_s: float,
    ) -> None:
        self._loop = loop
        self._on_stop = on_stop
        self._monotonic = clock.monotonic
        self._last_resort = _LastResort(ends_within_s)
        self._stopping_since: float | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._last_resort.start()
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._last_resort.disarm()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = self._monotonic()
        if self._stopping_since is not None:
            if now - self._stopping_since < _ONE_REQUEST_S:
                return
            log_now(logging.WARNING, f"{signal.Signals(number).name} again: ending at once")
            os._exit(128 + number)
        self._stopping_since = now
        self._last_resort.arm()
        self._loop.call_soon_threadsafe(self._on_stop, signal.Signals(number).name)


class _LastResort(threading.Thread):
    """Ends the process when the event loop cannot: a thread, because the loop may be blocked.

    `arm` and `disarm` are safe in a signal handler: `SimpleQueue.put` is reentrant.
    """

    def __init__(self, within_s: float) -> None:
        super().__init__(name="worker-runtime-last-resort", daemon=True)
        self._within_s = within_s
        self._inbox: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def arm(self) -> None:
        self._inbox.put(True)

    def disarm(self) -> None:
        self._inbox.put(False)

    def run(self) -> None:
        if not self._inbox.get():
            return
        try:
            self._inbox.get(timeout=self._within_s)
        except queue.Empty:
            log_now(
                logging.CRITICAL,
                f"not stopped {self._within_s:g} s after the signal, as something blocks the event "
                "loop: ending now",
            )
            os._exit(1)
