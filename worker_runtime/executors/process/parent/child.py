"""One child as its parent sees it: what runs in it, what it says, and how it is made to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
from collections import deque
from typing import Any

from worker_runtime.errors import ChildCrashed
from worker_runtime.executors.process import frames, memory_file
from worker_runtime.executors.process.parent.messages import ChildMessages, error_of, undecodable
from worker_runtime.executors.process.parent.output import output_pipe
from worker_runtime.executors.process.parent.spawner import describe_status
from worker_runtime.executors.process.parent.work import (
    BUSY,
    IDLE,
    LEAVING,
    STARTING,
    ChildKeeper,
    Work,
    WorkLine,
)

LINE_S = 0.002
"""How much work may be in a child, judged by how long its last job took."""

_PREFETCH_BYTES_MAX = 16_384
_LINE_MAX = 16


class ChildProcess:
    """Guarantees: runs one work at a time, and each work given to `run` is answered, handed back by
    `take_back` or, having been begun, failed with `crashed()`: exactly one of these, once.

    While its jobs are short the child has a few more in its request socket, so that it need not
    wait for the parent between them. They are not begun: they are taken back before the child is
    sent a signal, when it dies, and when another child is free for them.
    """

    def __init__(
        self, keeper: ChildKeeper[ChildProcess], line: WorkLine[ChildProcess], token: int
    ) -> None:
        self._keeper = keeper
        self._monotonic = keeper.clock.monotonic
        self._line = line
        self.token = token
        self.pid: int | None = None
        self.state = STARTING
        self.is_orphan = False
        self.is_silent = False
        self.is_doomed = False  # dead, or a signal is on its way: it gets no more work
        self._was_signalled = False
        self._room = 1
        self.in_flight: deque[Work] = deque()  # the first is running
        self.was_ready = False
        self.jobs_done = 0
        self.started_at = self.idle_since = self._monotonic()
        self.busy_since = 0.0
        self.memory_bytes = 0
        self.leave_reason: str | None = None
        self._serial = 0
        self._is_out_of_memory = False
        self._unread = b""
        self._upload: memory_file.Upload | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open()

    def _open(self) -> None:
        """Make the sockets and pipes. Raises OSError and leaves none behind."""
        with contextlib.ExitStack() as undo:
            self._requests, self._requests_child_end = socket.socketpair(type=frames.BOUNDED_SOCKET)
            self._channel, channel = socket.socketpair()
            for end in (self._requests, self._requests_child_end, self._channel, channel):
                undo.callback(end.close)
            stdout, stdout_writer = output_pipe(undo)
            stderr, stderr_writer = output_pipe(undo)
            undo.pop_all()
        self._requests.setblocking(False)
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * frames.REQUEST_BYTES_MAX)
        self._channel.setblocking(False)
        self._messages = ChildMessages(self._keeper.loop, stdout, stderr)
        self._keeper.loop.add_reader(self._channel.fileno(), self._receive)
        self._to_close = [channel.detach(), stdout_writer, stderr_writer]
        self.child_ends = [self._requests_child_end.fileno(), *self._to_close]

    def close_child_ends(self) -> None:
        """After the fork. Its end of the request socket stays open here, see `take_back`."""
        for descriptor in self._to_close:
            os.close(descriptor)
        self._to_close = []

    def set_pid(self, pid: int) -> None:
        self.pid = self._messages.pid = pid

    @property
    def work(self) -> Work | None:
        """What runs in it now."""
        return self.in_flight[0] if self.in_flight else None

    # What the pool asks of it

    def has_room(self, work: Work) -> bool:
        """Whether `work` may join its line behind a short job."""
        return (
            len(self.in_flight) < self._room
            and not self.is_doomed
            and type(work.request) is bytes
            and len(work.request) <= _PREFETCH_BYTES_MAX
        )

    def run(self, work: Work) -> None:
        """Hand `work` over. Assumes that the child is idle or `has_room`."""
        work.child = self
        work.serial = self._serial = self._serial + 1
        self.in_flight.append(work)
        if len(self.in_flight) == 1:
            self.state = BUSY
            if type(work.request) is list:
                self._start_upload(work, work.request)
                return
            self._begin(work)
        assert isinstance(work.request, bytes)
        self._send(work, frames.RUN, work.request)

    def stop(self, work: Work, *, cooperates: bool) -> bool:
        """Begin the ladder: token, SIGTERM, SIGKILL. A task that cannot see the token (neither
        async nor with a context) starts at SIGTERM. False where the work had not begun: it is out
        of the child again, or had ended."""
        if work.is_stopping:
            return True
        if not self._isolate(work):
            return False
        work.is_stopping = True
        if cooperates:
            with contextlib.suppress(OSError):
                self._channel.send(frames.STOP.pack(work.serial))
            self._timer = self._keeper.loop.call_later(self._keeper.grace_s, self._terminate, work)
        else:
            self._terminate(work)
        return True

    def take_back(self) -> list[Work]:
        """Take out of the request socket what the child has not read, oldest first. Each request
        comes out on one side only, so what is taken was not begun and never will be."""
        unread: set[int] = set()
        while len(unread) < len(self.in_flight):
            try:
                message, descriptors = frames.receive(
                    self._requests_child_end, frames.REQUEST_BYTES_MAX, 1, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            unread.add(frames.REQUEST_HEADER.unpack_from(message)[1])
        works = [work for work in self.in_flight if work.serial in unread]
        for work in works:
            self._release(work)
        return works

    def retire(self, reason: str, within_s: float) -> None:
        """Let an idle child leave its setup and end; killed where that takes too long."""
        self.state = LEAVING
        self.leave_reason = reason
        with contextlib.suppress(OSError):
            self._requests.send(frames.REQUEST_HEADER.pack(frames.QUIT, 0))
        self._timer = self._keeper.loop.call_later(within_s, self.kill)

    def kill(self, reason: str | None = None) -> None:
        """SIGKILL. What was only in its line runs elsewhere; what it has answered, counts."""
        self.is_doomed = self._was_signalled = True
        self._line.taken_back(self, self.take_back())
        while self._receive():
            pass
        if reason is not None:
            self.leave_reason = reason
        self._keeper.send_signal(self, signal.SIGKILL)

    def crashed(self, status: int | None) -> ChildCrashed:
        """The error for the work that died with the child."""
        if self._is_out_of_memory or self.leave_reason == "memory_limit":
            clause, note = "ran out of the memory it is allowed", "memory_limit"
        else:
            clause, note = describe_status(status)
            if note == "sigkill" and not self._was_signalled:
                clause += ", not by this runtime; perhaps for lack of memory"
        return self._messages.crash(clause, note)

    def drain(self) -> None:
        """Take in everything that a dead child left in its channel and pipes."""
        self.is_doomed = True
        while self._receive():
            pass
        self._messages.drain()

    def close(self) -> None:
        """Release everything. The child is dead, or nobody may hear of it any more."""
        self.state = LEAVING
        self._cancel_timer()
        self._cancel_upload()
        self._silence()
        self._requests.close()
        self._requests_child_end.close()
        self._channel.close()
        self._messages.close()
        self.close_child_ends()

    # Downwards

    def _begin(self, work: Work) -> None:
        """`work` is the first in the child: from now on it is what runs there."""
        self.busy_since = self._monotonic()
        self.leave_reason = None
        self._messages.begin_job(work.job)
        if not work.has_begun:
            work.has_begun = True
            work.call.began()

    def _send(self, work: Work, kind: int, payload: bytes, descriptor: int | None = None) -> None:
        """Never blocks: the limits on what is in flight fit the socket's buffer."""
        message = frames.REQUEST_HEADER.pack(kind, work.serial) + payload
        try:
            if descriptor is None:
                self._requests.send(message)
            else:
                socket.send_fds(self._requests, [message], [descriptor])
        except OSError as error:
            self._release(work)
            self._line.child_answered(self, work)
            if not work.done():
                work.set_exception(error)

    def _release(self, work: Work) -> None:
        """`work` is out of the child again."""
        self.in_flight.remove(work)
        work.child = None
        if not self.in_flight:
            self._messages.rest()
            if self.state is BUSY:
                self.state = LEAVING if self.is_doomed else IDLE

    def _start_upload(self, work: Work, segments: list[memoryview]) -> None:
        try:
            self._upload = memory_file.Upload(segments)
        except OSError as error:
            self._finish(work, 0.0, None, error)
            return
        self._upload_next(work, self._upload)

    def _upload_next(self, work: Work, upload: memory_file.Upload) -> None:
        """Copy a chunk and let the loop run; after the last, send the request."""
        if self._upload is not upload:  # cancelled
            return
        began = self._monotonic()
        try:
            more = upload.step()
        except OSError as error:
            self._cancel_upload()
            self._finish(work, 0.0, None, error)
            return
        self._line.transfer_s += self._monotonic() - began
        if more:
            self._keeper.loop.call_soon(self._upload_next, work, upload)
            return
        self._begin(work)
        payload = frames.encode_sizes(upload.sizes)
        self._send(work, frames.RUN_SHARED, payload, upload.descriptor)
        self._cancel_upload()

    def _cancel_upload(self) -> None:
        if self._upload is not None:
            self._upload.close()
            self._upload = None

    def _isolate(self, work: Work) -> bool:
        """Leave nothing in the child but `work`; whether it has begun there and not ended.

        Danger: without this a signal that is meant for `work` could hit the one after it.
        """
        if self._upload is not None:
            self._cancel_upload()
            self._release(work)
            self._line.taken_back(self, [])
            return False
        taken = self.take_back()
        while self._receive():
            pass
        self._line.taken_back(self, [w for w in taken if w is not work])
        return self.work is work

    def _terminate(self, work: Work) -> None:
        if self._isolate(work):
            self.is_doomed = self._was_signalled = True
            self._keeper.send_signal(self, signal.SIGTERM)
            self._timer = self._keeper.loop.call_later(self._keeper.term_grace_s, self.kill)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Upwards

    def _receive(self) -> bool:
        """Read once and handle whole frames; whether there may be more."""
        if self.is_silent:
            return False
        try:
            data = self._channel.recv(frames.READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._silence()
            self._keeper.child_silent(self)
            return False
        is_full = len(data) == frames.READ_BYTES
        if self._unread:
            data = self._unread + data
        header = frames.ANSWER_HEADER
        start, size_all = 0, len(data)
        while size_all - start >= header.size:
            size, kind, flags, run_s = header.unpack_from(data, start)
            end = start + header.size + size
            if end > size_all:
                break
            self._handle(kind, data[start + header.size : end], flags, run_s)
            start = end
        self._unread = data[start:]
        return is_full

    def _silence(self) -> None:
        if not self.is_silent:
            self.is_silent = True
            self._keeper.loop.remove_reader(self._channel.fileno())

    def _handle(self, kind: int, payload: bytes, flags: int, run_s: float) -> None:
        if kind >= frames.RETURNED:
            work = self.work
            if work is None:
                return
            if flags & frames.WROTE_OUTPUT:
                self._messages.drain()
            if kind == frames.RETURNED:
                self._finish(work, run_s, payload, None)
            elif kind == frames.RETURNED_SHARED:
                self._finish(work, run_s, *self._receive_shared(payload))
            else:
                self._finish(work, run_s, None, error_of(kind, payload))
        elif kind == frames.REPORT:
            if self.work is not None and not self.work.done():
                self._messages.report(payload)
        elif kind == frames.LOG:
            self._messages.log(payload)
        elif kind == frames.READY:
            self._keeper.child_ready(self)
        elif kind == frames.SETUP_FAILED:
            self._keeper.setup_failed(self, payload.decode("utf-8", "replace"))
        elif kind == frames.OUT_OF_MEMORY:
            self._is_out_of_memory = True  # its death, which follows, is the answer

    def _finish(self, work: Work, run_s: float, result: Any, error: BaseException | None) -> None:
        """Give the child its next work first, so that it runs while this result is decoded."""
        now = self._monotonic()
        if self._timer is not None and not self.is_doomed:
            self._cancel_timer()
        if run_s:
            self._line.transfer_s += max(0.0, now - self.busy_since - run_s)
            self._line.service_s = max(run_s, 0.9 * self._line.service_s)
        self._room = min(_LINE_MAX, 1 + int(LINE_S / run_s)) if run_s else 1
        self.jobs_done += 1
        self._release(work)
        if self.in_flight:
            self._begin(self.in_flight[0])
        self._line.child_answered(self, work)
        if work.done():
            return
        value: Any = None
        if error is None:
            try:
                if type(result) is bytes:
                    value = pickle.loads(result)
                else:
                    value = frames.unpack_segments(result)
            except BaseException as raised:
                error = undecodable(raised)
        if error is None:
            work.set_result(value)
        else:
            work.set_exception(error)

    def _receive_shared(self, payload: bytes) -> tuple[Any, BaseException | None]:
        try:
            return memory_file.receive_segments(self._requests, frames.decode_sizes(payload)), None
        except (OSError, ValueError) as error:
            return None, error
