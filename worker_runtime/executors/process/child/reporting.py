"""What a child tells its parent while a task runs: progress, metrics, log records, output written.

Everything is bounded here, at its source: reports are merged, log records have a rate.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import sys
import threading
import time
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.executors.process import frames
from worker_runtime.model.activity import Metric, Progress
from worker_runtime.model.bounded import cut
from worker_runtime.model.context import METRICS_KEPT_MAX

REPORT_INTERVAL_S = 0.02
LOG_LINES_PER_S = 1000
LOG_BYTES_MAX = 8192
_STREAMS = (("stdout", 1), ("stderr", 2))


class Channel:
    """The upward half of the channel, for any thread of the child, but not for a process that a
    task forked: there it `is_mute`."""

    is_mute = False

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def mute(self) -> None:
        """Danger: a lock that another thread held at the fork is never released here."""
        self.is_mute = True
        self._stream.close()

    def send(self, kind: int, payload: bytes = b"", flags: int = 0, run_s: float = 0.0) -> None:
        frame = frames.ANSWER_HEADER.pack(len(payload), kind, flags, run_s) + payload
        try:
            with self._lock:
                self._stream.sendall(frame)
        except OSError:  # nobody listens: the parent is gone, and nothing more may be done for it
            os._exit(1)


class ReportBuffer:
    """A context's reporter: at most one frame each `REPORT_INTERVAL_S`, with the latest progress
    and the metrics since the last. What is held back is sent when the interval is over."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._monotonic = clock.monotonic
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._metrics: list[Metric] = []
        self._dropped = 0
        self._sent_at = 0.0
        self._is_held_back = threading.Event()
        self._flusher: threading.Thread | None = None

    def progress(self, progress: Progress) -> None:
        if self._channel.is_mute:
            return
        with self._lock:
            self._progress = progress
            self._offer()

    def metric(self, metric: Metric) -> None:
        if self._channel.is_mute:
            return
        with self._lock:
            if len(self._metrics) >= METRICS_KEPT_MAX:
                del self._metrics[0]
                self._dropped += 1
            self._metrics.append(metric)
            self._offer()

    def flush(self) -> None:
        """Send what is held back."""
        if self._progress is None and not self._metrics:
            return
        with self._lock:
            report = frames.Report(self._progress, self._metrics, self._dropped)
            self._progress, self._metrics, self._dropped = None, [], 0
            self._sent_at = self._monotonic()
            self._channel.send(frames.REPORT, msgspec.msgpack.encode(report))

    def _offer(self) -> None:
        if self._monotonic() - self._sent_at >= REPORT_INTERVAL_S:
            self.flush()
        elif not self._is_held_back.is_set():
            if self._flusher is None:
                self._flusher = small_thread(self._flush_later, "worker-runtime-reports")
            self._is_held_back.set()

    def _flush_later(self) -> None:
        while self._is_held_back.wait():
            time.sleep(REPORT_INTERVAL_S)
            self._is_held_back.clear()
            self.flush()


class LogForwarder(logging.Handler):
    """Sends log records to the parent, at most `LOG_LINES_PER_S`; the rest is counted and said.

    In a process that a task forked they are written to stderr, which the parent logs.
    """

    def __init__(self, channel: Channel, clock: Clock) -> None:
        super().__init__()
        self._channel = channel
        self._clock = clock
        self._second = 0.0
        self._count = 0
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock.monotonic()
        if now - self._second >= 1.0:
            self.tell_dropped()
            self._second, self._count = now, 0
        if self._count >= LOG_LINES_PER_S:
            self._dropped += 1
            return
        self._count += 1
        try:
            message = record.getMessage()
            exception = _exception_text(record)
        except Exception as error:  # a record that cannot be formatted must not end the task
            message, exception = f"{record.msg!r} cannot be formatted: {error!r}", None
        self._send(record.levelno, record.name, message, record.created, exception)

    def tell_dropped(self) -> None:
        if self._dropped:
            text = f"{self._dropped} log records dropped: more than {LOG_LINES_PER_S} a second"
            self._dropped = 0
            self._send(logging.WARNING, "worker_runtime.child", text, self._clock.wall(), None)

    def _send(
        self, level: int, logger: str, message: str, created: float, exception: str | None
    ) -> None:
        if self._channel.is_mute:
            text = f"{logging.getLevelName(level)} {logger}: {cut(message, LOG_BYTES_MAX)}\n"
            if exception is not None:
                text += cut(exception, LOG_BYTES_MAX) + "\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode("utf-8", "backslashreplace"))
            return
        line = frames.LogLine(
            level,
            logger[:200],
            cut(message, LOG_BYTES_MAX),
            created,
            None if exception is None else cut(exception, LOG_BYTES_MAX),
        )
        self._channel.send(frames.LOG, msgspec.msgpack.encode(line))


def _exception_text(record: logging.LogRecord) -> str | None:
    if record.exc_text:
        return record.exc_text
    if record.exc_info and record.exc_info[0] is not None:
        return logging.Formatter().formatException(record.exc_info)
    return None


class MarkedOutput(io.FileIO):
    """stdout or stderr as a raw file that remembers whether it was written to."""

    was_written = False

    def write(self, data: Any) -> int:
        self.was_written = True
        return super().write(data)


class StandardOutput:
    """sys.stdout and sys.stderr onto the parent's pipes, in this state again for each job."""

    def __init__(self) -> None:
        self._raw: dict[str, MarkedOutput] = {}
        self._kept: dict[str, Any] = {}
        for name, descriptor in _STREAMS:
            self._open(name, descriptor)

    def adopt(self) -> None:
        """What is there now stays: a setup may have put streams of its own there."""
        self._kept = {name: getattr(sys, name) for name, _ in _STREAMS}

    def flush(self) -> bool:
        """Whether anything was written since the last time."""
        was_written = False
        for name, descriptor in _STREAMS:
            kept = self._kept[name]
            for stream in (getattr(sys, name), kept):
                try:
                    stream.flush()
                except Exception:  # a task may have put anything there, or closed it
                    pass
            if getattr(sys, name) is not kept:
                setattr(sys, name, kept)  # what goes may take the file below with it
            if getattr(kept, "closed", False):
                self._open(name, descriptor)
            was_written |= self._raw[name].was_written
            self._raw[name].was_written = False
        return was_written

    def _open(self, name: str, descriptor: int) -> None:
        raw = self._raw[name] = MarkedOutput(descriptor, "w", closefd=False)
        self._kept[name] = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, self._kept[name])


def small_thread(target: object, name: str) -> threading.Thread:
    """Start a daemon thread with a small stack, which counts against a child's memory limit."""
    before = threading.stack_size(262_144)
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)  # type: ignore[arg-type]
        thread.start()
    finally:
        threading.stack_size(before)
    return thread
