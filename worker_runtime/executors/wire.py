"""What crosses between a parent and its own child process: frames, and values as pickle protocol 5.

Two socket pairs join them. *Data* carries frames: a header, then the payload; one request at a time
goes down, any number of reports and then one answer come up. *Control* carries stop orders down and
the descriptors of memory files both ways, so that a stop never waits behind a large payload.

Nothing from a network is ever decoded here: both ends are written by this package.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from worker_runtime.job import Metric, Progress

REQUEST_HEADER = struct.Struct("<IBI")
"""Payload bytes, kind, serial number of the request."""

ANSWER_HEADER = struct.Struct("<IBBd")
"""Payload bytes, kind, flags, seconds that the function ran (0 where it is no answer)."""

CONTROL_MESSAGE = struct.Struct("<BI")
"""Kind, serial number of the request it is about."""

# Requests on the data socket
RUN = 1  # payload: a pickled Request
RUN_SHARED = 2  # payload: segment sizes; the descriptor comes over the control socket

# Messages on the control socket
STOP = 1
MEMORY = 2  # one descriptor is attached

# Answers on the data socket
READY = 1
SETUP_FAILED = 2  # payload: text
REPORT = 3  # payload: Report
LOG = 4  # payload: LogLine
RETURNED = 5  # payload: the pickled value
RETURNED_SHARED = 6  # payload: segment sizes; the descriptor comes over the control socket
RAISED = 7  # payload: Raised
RUN_AGAIN = 8  # payload: Again
INTERRUPTED = 9  # payload: text
OUT_OF_MEMORY = 10

WROTE_OUTPUT = 1  # flag of an answer: stdout or stderr was written to

READ_BYTES = 65_536
INLINE_BYTES_MAX = 262_144
OUT_OF_BAND_BYTES_MIN = 65_536
_ALIGNMENT = 64

Request = tuple[str, tuple[Any, ...], dict[str, Any] | None, str, str, int, str | None]
"""Task name, args, kwargs, job id, queue, attempt, label."""


class Raised(msgspec.Struct, array_like=True, gc=False):
    error_type: str
    error: str
    lineage: tuple[str, ...]
    traceback: str


class Again(msgspec.Struct, array_like=True, gc=False):
    delay_s: float
    uses_attempt: bool


class LogLine(msgspec.Struct, array_like=True, gc=False):
    level: int
    logger: str
    message: str
    created: float
    exception: str | None


class Report(msgspec.Struct, array_like=True, gc=False):
    progress: Progress | None
    metrics: list[Metric]
    metrics_dropped: int


_sizes = msgspec.msgpack.Decoder(list[int])


def pack(value: Any) -> bytes | list[memoryview]:
    """`value` pickled: bytes where that fits a frame, else segments for a memory file, the pickle
    stream first and then each large buffer as it lies in memory, not copied."""
    buffers: list[memoryview] = []

    def is_kept_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: it has to be copied in any case
            return True
        if raw.nbytes < OUT_OF_BAND_BYTES_MIN:
            return True
        buffers.append(raw)
        return False

    stream = pickle.dumps(value, 5, buffer_callback=is_kept_in_band)
    if not buffers and len(stream) <= INLINE_BYTES_MAX:
        return stream
    return [memoryview(stream), *buffers]


def unpack_segments(segments: Sequence[memoryview]) -> Any:
    """The value that `pack` cut into segments. Its large buffers stay where they are."""
    return pickle.loads(segments[0], buffers=segments[1:])


def encode_sizes(segments: Sequence[memoryview]) -> bytes:
    return msgspec.msgpack.encode([segment.nbytes for segment in segments])


def decode_sizes(payload: bytes) -> list[int]:
    return _sizes.decode(payload)


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each segment starts in a memory file, on a cache line, and how long the file is."""
    offsets: list[int] = []
    end = 0
    for size in sizes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        offsets.append(start)
        end = start + size
    return offsets, max(end, 1)
