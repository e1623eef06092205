"""Reads what a child writes to stdout or stderr, line by line and within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable

LINE_BYTES_MAX = 8192
LINES_PER_JOB_MAX = 1000
TAIL_LINES = 20
TAIL_LINE_CHARS_MAX = 200
_READ_BYTES = 65_536
_READS_MAX = 16  # of one drain: something may write without end


class OutputReader:
    """The parent's end of a child's output pipe.

    `sink` gets each line as it comes, up to `LINES_PER_JOB_MAX` until `begin_job` is called again;
    `tail` keeps the last ones whether or not they were passed on.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, sink: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._descriptor: int | None = descriptor
        self._sink = sink
        self._partial = b""
        self._lines = 0
        self.was_heard = False  # since the running job began
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self._read)

    def begin_job(self) -> None:
        """What comes from now on is another job's."""
        if self._partial:
            self._take_partial()
        self._lines = 0
        self.tail.clear()
        self.was_heard = False

    def drain(self) -> None:
        """Read what is there now, and take an unfinished line for a line."""
        for _ in range(_READS_MAX):
            if not self._read():
                break
        if self._partial:
            self._take_partial()
        dropped = self._lines - LINES_PER_JOB_MAX
        if dropped > 0:
            self._sink(f"{dropped} more lines of output dropped")
            self._lines = LINES_PER_JOB_MAX

    def close(self) -> None:
        if self._descriptor is not None:
            self.drain()
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> bool:
        """Read once; whether there may be more."""
        if self._descriptor is None:
            return False
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
            return False
        self.was_heard = True
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._partial) > LINE_BYTES_MAX:
            self._line(self._partial[:LINE_BYTES_MAX])
            self._partial = self._partial[LINE_BYTES_MAX:]
        return len(data) == _READ_BYTES

    def _take_partial(self) -> None:
        line, self._partial = self._partial, b""
        self._line(line)

    def _line(self, line: bytes) -> None:
        text = line[:LINE_BYTES_MAX].decode("utf-8", "replace").rstrip("\r")
        self._lines += 1
        self.tail.append(text[:TAIL_LINE_CHARS_MAX])
        if self._lines <= LINES_PER_JOB_MAX:
            self._sink(text)


def output_pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe's reading and writing end, closed again where `undo` is left with them in it."""
    reader, writer = os.pipe()
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    return reader, writer
