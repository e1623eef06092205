"""Memory files: memory without a name that two processes share by passing its descriptor.

Because it has no name nothing of it can be left behind: the kernel frees it when the last
descriptor and mapping are gone, whichever side died and however.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence

from worker_runtime.executors.process import frames

CHUNK_BYTES = 4 << 20

_MAPPED_MAX = 64
"""Before Python 3.13 a mapping holds its descriptor for as long as a result lives; beyond this many
a received file is copied into memory of its own instead."""

_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def create() -> int:
    """A new empty memory file's descriptor. Without memfd_create: an unlinked temporary file."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("worker_runtime", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Upload:
    """Copies segments into a new memory file, in steps of `CHUNK_BYTES`. Raises OSError where there
    is no space; owns its descriptor until `close`."""

    def __init__(self, segments: Sequence[memoryview]) -> None:
        self.sizes = [segment.nbytes for segment in segments]
        offsets, total = frames.layout(self.sizes)
        self.descriptor = create()
        try:
            os.ftruncate(self.descriptor, total)
        except BaseException:
            self.close()
            raise
        self._chunks = self._write(segments, offsets)

    def step(self) -> bool:
        """Copy one chunk; False where there was none left."""
        return next(self._chunks, None) is not None

    def close(self) -> None:
        os.close(self.descriptor)

    def _write(self, segments: Sequence[memoryview], offsets: Sequence[int]) -> Iterator[int]:
        for segment, start in zip(segments, offsets, strict=True):
            octets = segment.cast("B") if segment.nbytes else segment
            done = 0
            while done < segment.nbytes:
                chunk = octets[done : done + CHUNK_BYTES]
                written = os.pwrite(self.descriptor, chunk, start + done)
                done += written
                yield written


def receive_segments(source: socket.socket, sizes: Sequence[int]) -> list[memoryview]:
    """Those of the file whose descriptor comes over `source`. Raises OSError where there is none,
    which is how the kernel says that this process may open no more."""
    _, descriptors = frames.receive(source, 1, 1)
    if not descriptors:
        raise OSError("too many open files to take in a large value")
    return read_segments(descriptors[0], sizes)


def read_segments(descriptor: int, sizes: Sequence[int]) -> list[memoryview]:
    """The segments of a received file, writable and without a copy. Closes the descriptor.

    The memory lives for as long as any of the segments does.
    """
    try:
        offsets, total = frames.layout(sizes)
        whole = memoryview(_map(descriptor, total))
    finally:
        os.close(descriptor)
    return [whole[start : start + size] for start, size in zip(offsets, sizes, strict=True)]


def _map(descriptor: int, total: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, total, trackfd=False)
    if len(_mapped) < _MAPPED_MAX:
        mapping = mmap.mmap(descriptor, total)
        _mapped.add(mapping)
        return mapping
    copy = mmap.mmap(-1, total)
    with memoryview(copy) as target:
        done = 0
        while done < total:
            done += os.preadv(descriptor, [target[done:]], done)
    return copy
