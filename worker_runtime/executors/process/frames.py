"""What crosses between a parent and its own child process: frames, and values as pickle protocol 5.

Two socket pairs join them. *Requests* keeps message boundaries: each message down is one request,
perhaps with the descriptor of a memory file; up it carries only descriptors. Because the parent
holds the child's end too, it can take back a request that the child has not read, and whatever
comes out of the socket on one side cannot come out on the other: that decides, for each request and
even after the child's death, whether it began. *Channel* is a stream: frames of a header and a
payload up, any number of reports and one answer for each request; stop orders down.

Nothing from a network is ever decoded here: both ends are written by this package.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from worker_runtime.model.activity import Metric, Progress

REQUEST_HEADER = struct.Struct("<BI")
"""Kind, serial number of the request. The payload is the rest of the message."""

ANSWER_HEADER = struct.Struct("<IBBd")
"""Payload bytes, kind, flags, seconds that the function ran (0 where it is no answer)."""

STOP = struct.Struct("<I")
"""A stop order: the serial number of the request it is about."""

# Requests
QUIT = 0  # leave the setup and end
RUN = 1  # payload: a pickled Request
RUN_SHARED = 2  # payload: segment sizes; the memory file's descriptor is attached

# Frames on the channel
READY = 1
SETUP_FAILED = 2  # payload: text
REPORT = 3  # payload: Report
LOG = 4  # payload: LogLine
OUT_OF_MEMORY = 5
# Answers, from here on
RETURNED = 6  # payload: the pickled value
RETURNED_SHARED = 7  # payload: segment sizes; the descriptor comes over the request socket
RAISED = 8  # payload: Raised
RUN_AGAIN = 9  # payload: Again
INTERRUPTED = 10  # payload: text

WROTE_OUTPUT = 1  # flag of an answer: stdout or stderr was written to

READ_BYTES = 65_536
INLINE_BYTES_MAX = 131_072
REQUEST_BYTES_MAX = INLINE_BYTES_MAX + REQUEST_HEADER.size
OUT_OF_BAND_BYTES_MIN = 65_536
_ALIGNMENT = 64

Request = tuple[str, tuple[Any, ...], dict[str, Any] | None, str, str, int, str | None]
"""Task name, args, kwargs, job id, queue, attempt, label."""


class Raised(msgspec.Struct, array_like=True, gc=False):
    error_type: str
    error: str
    lineage: tuple[str, ...]
    traceback: str
    leaves: tuple[tuple[str, ...], ...] = ()


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


# SEQPACKET is refused by macOS; there a datagram pair keeps the boundaries.
BOUNDED_SOCKET = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM

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


def encode_sizes(sizes: Sequence[int]) -> bytes:
    return msgspec.msgpack.encode(list(sizes))


def decode_sizes(payload: bytes | memoryview) -> list[int]:
    return _sizes.decode(payload)


def receive(
    source: socket.socket, bytes_max: int, descriptors_max: int, flags: int = 0
) -> tuple[bytes, list[int]]:
    """A message and the descriptors attached to it, none of them inheritable.

    `socket.recv_fds` ignores its flags.
    """
    descriptors = array.array("i")
    message, ancillary, _, _ = source.recvmsg(
        bytes_max, socket.CMSG_LEN(descriptors_max * descriptors.itemsize), flags
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return message, list(descriptors)


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each segment starts in a memory file, on a cache line, and how long the file is."""
    offsets: list[int] = []
    end = 0
    for size in sizes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        offsets.append(start)
        end = start + size
    return offsets, max(end, 1)
