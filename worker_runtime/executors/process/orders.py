"""What a parent and its forkserver say to each other: the configuration, orders down, events up.

Each message is MessagePack behind its length. A fork order carries the descriptors of the child.
"""

from __future__ import annotations

import struct

import msgspec

from worker_runtime.executors.process.catalogue import TaskCatalogue

LENGTH = struct.Struct("<I")
CHILD_DESCRIPTORS = 4
"""What a fork order carries: request socket, channel, stdout pipe, stderr pipe."""


class ForkserverConfig(msgspec.Struct, frozen=True):
    """The first message to a forkserver. `preload` False: each child imports the modules itself."""

    parent_pid: int
    argv: list[str]
    catalogue: TaskCatalogue
    preload: bool
    log_levels: dict[str, int]
    memory_bytes_max: int | None


class Fork(msgspec.Struct, tag=True, gc=False):
    """Start a child; its descriptors are attached to the message."""

    token: int


class Signal(msgspec.Struct, tag=True, gc=False):
    """Send a signal to a child's whole process group."""

    pid: int
    number: int


class Loaded(msgspec.Struct, tag=True, gc=False):
    """Ready to fork."""


class LoadFailed(msgspec.Struct, tag=True, gc=False):
    error: str
    traceback: str


class Threaded(msgspec.Struct, tag=True, gc=False):
    """The modules start threads when imported, so this process must not fork; it ends."""


class Forked(msgspec.Struct, tag=True, gc=False):
    token: int
    pid: int


class ForkFailed(msgspec.Struct, tag=True, gc=False):
    token: int
    error: str


class Exited(msgspec.Struct, tag=True, gc=False):
    """A child has died. `status` as `os.waitpid` gives it."""

    pid: int
    status: int


Order = Fork | Signal
Event = Loaded | LoadFailed | Threaded | Forked | ForkFailed | Exited


def framed(message: object) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(payload)) + payload
