"""One child as its parent sees it: what runs in it, what it says, and how it is made to stop."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from worker_runtime.context import RecordReporter
from worker_runtime.errors import ChildCrashed, JobInterrupted, RemoteFailure, RunAgain
from worker_runtime.executors import Call, memory_file, wire
from worker_runtime.executors.output import OutputReader
from worker_runtime.executors.spawner import describe_status

child_logger = logging.getLogger("worker_runtime.child")

_raised = msgspec.msgpack.Decoder(wire.Raised)
_again = msgspec.msgpack.Decoder(wire.Again)
_report = msgspec.msgpack.Decoder(wire.Report)
_log_line = msgspec.msgpack.Decoder(wire.LogLine)


class Work(asyncio.Future[Any]):
    """One call on its way through a child, and the future of its end."""

    child: ChildProcess | None = None
    rounds = 0

    def __init__(
        self, pool: Pool, call: Call, request: bytes | list[memoryview], queued_at: float
    ) -> None:
        super().__init__(loop=pool.loop)
        self.pool = pool
        self.call = call
        self.request = request
        self.queued_at = queued_at

    def cancel(self, msg: Any | None = None) -> bool:
        """The awaiter left: what runs for it is stopped."""
        if not self.done():
            self.pool.forsaken(self)
        return super().cancel(msg)


class Pool(Protocol):
    """What a child tells of itself. Each is called on the event loop's thread."""

    loop: asyncio.AbstractEventLoop
    grace_s: float
    term_grace_s: float
    transfer_s: float

    def forsaken(self, work: Work) -> None: ...

    def child_ready(self, child: ChildProcess) -> None: ...

    def setup_failed(self, child: ChildProcess, text: str) -> None: ...

    def child_free(self, child: ChildProcess, work: Work) -> None:
        """The child has answered `work` and can take other work."""
        ...

    def child_silent(self, child: ChildProcess) -> None:
        """The child closed its socket, or can no longer be written to."""
        ...

    def send_signal(self, child: ChildProcess, number: int) -> None: ...


class ChildState(enum.StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"  # retired, failed or killed: it gets no more work


STARTING = ChildState.STARTING
IDLE = ChildState.IDLE
BUSY = ChildState.BUSY
LEAVING = ChildState.LEAVING


class ChildProcess:
    """Guarantees: at most one work at a time; each work that `run` took is answered, handed back by
    `take_unstarted` or failed by `crashed`, once."""

    def __init__(self, pool: Pool, token: int) -> None:
        self._pool = pool
        self.token = token
        self.pid: int | None = None
        self.state = STARTING
        self.is_orphan = False
        self.is_silent = False
        self.is_doomed = False  # a signal is on its way: whatever it answers, it gets no more work
        self.work: Work | None = None
        self.jobs_done = 0
        self.started_at = self.idle_since = time.monotonic()
        self.busy_since = 0.0
        self.memory_bytes = 0
        self.leave_reason: str | None = None
        self._serial = 0
        self._was_reset = False
        self._is_out_of_memory = False
        self._unread = b""
        self._unsent = memoryview(b"")
        self._upload: Iterator[int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reporter: RecordReporter | None = None
        self.child_ends = self._open()

    def _open(self) -> list[int]:
        """Make the sockets and pipes; the child's ends of them."""
        loop = self._pool.loop
        with contextlib.ExitStack() as undo:
            self._data, data = _socket_pair(undo)
            self._control, control = _socket_pair(undo)
            stdout, stdout_writer = _pipe(undo)
            stderr, stderr_writer = _pipe(undo)
            undo.pop_all()
        self._stdout = OutputReader(loop, stdout, lambda line: self._log_output("stdout", line))
        self._stderr = OutputReader(loop, stderr, lambda line: self._log_output("stderr", line))
        loop.add_reader(self._data.fileno(), self._receive)
        return [data.detach(), control.detach(), stdout_writer, stderr_writer]

    def close_child_ends(self) -> None:
        for descriptor in self.child_ends:
            os.close(descriptor)
        self.child_ends = []

    # What the pool asks of it

    def run(self, work: Work) -> None:
        """Hand `work` over. Assumes that the child is idle."""
        self.work = work
        work.child = self
        work.rounds += 1
        self.state = BUSY
        self._serial += 1
        self._reporter = None
        self._stdout.begin_job()
        self._stderr.begin_job()
        request = work.request
        if isinstance(request, bytes):
            self.busy_since = time.perf_counter()
            header = wire.REQUEST_HEADER.pack(len(request), wire.RUN, self._serial)
            self._send(header + request)
            if work.rounds == 1:
                work.call.began()
        else:
            descriptor = memory_file.create()
            self._upload = memory_file.write_chunks(descriptor, request)
            self._upload_next(work, descriptor, request)

    def stop(self, *, cooperates: bool) -> None:
        """Begin the ladder: token, SIGTERM, SIGKILL. A task that cannot see the token (neither async
        nor with a context) starts at SIGTERM."""
        if self._timer is not None or self.work is None:
            return
        if cooperates:
            with contextlib.suppress(OSError):
                self._control.send(wire.CONTROL_MESSAGE.pack(wire.STOP, self._serial))
            self._timer = self._pool.loop.call_later(self._pool.grace_s, self._terminate)
        else:
            self._terminate()

    def retire(self, reason: str, within_s: float) -> None:
        """Let an idle child leave its setup and end; killed where that takes too long."""
        self.state = LEAVING
        self.leave_reason = reason
        with contextlib.suppress(OSError):
            self._data.shutdown(socket.SHUT_WR)
        self._timer = self._pool.loop.call_later(within_s, self.kill)

    def kill(self, reason: str | None = None) -> None:
        if reason is not None:
            self.leave_reason = reason
        self.is_doomed = True
        self._pool.send_signal(self, signal.SIGKILL)

    def take_unstarted(self) -> Work | None:
        """After the child's death: the work that it never read, if there is one."""
        if not self._was_reset or self.work is None:
            return None
        work, self.work = self.work, None
        work.child = None
        return work

    def crashed(self, status: int | None) -> ChildCrashed:
        """The error for the work that died with the child."""
        clause, note = describe_status(status)
        if self._is_out_of_memory or self.leave_reason == "memory_limit":
            clause, note = "ran out of the memory it is allowed", "memory_limit"
        elif note == "sigkill" and self._timer is None:
            clause += ", not by this runtime; perhaps for lack of memory"
        text = f"child process {self.pid} {clause}"
        if self._stderr.tail:
            text += "; its last output:\n" + "\n".join(self._stderr.tail)
        return ChildCrashed(text, note=note, retryable=note != "memory_limit")

    def drain(self) -> None:
        """Take in everything that a dead child left in its socket and pipes."""
        while not self.is_silent and self._receive():
            pass
        self._stdout.drain()
        self._stderr.drain()

    def close(self) -> None:
        """Release everything. The child is dead, or nobody may hear of it any more."""
        self.state = LEAVING
        self._cancel_timer()
        self._silence()
        self._data.close()
        self._control.close()
        self._stdout.close()
        self._stderr.close()
        self.close_child_ends()

    # Downwards

    def _send(self, frame: bytes) -> None:
        try:
            sent = self._data.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._was_reset = True  # it can be read no more, so nothing of it was begun
            self._pool.child_silent(self)
            return
        if sent < len(frame):
            self._unsent = memoryview(frame)[sent:]
            self._pool.loop.add_writer(self._data.fileno(), self._send_rest)

    def _send_rest(self) -> None:
        try:
            sent = self._data.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._was_reset = True
            sent = len(self._unsent)  # the reader learns of the child's end
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._pool.loop.remove_writer(self._data.fileno())

    def _upload_next(self, work: Work, descriptor: int, segments: list[memoryview]) -> None:
        """Copy a chunk and let the loop run; after the last, send the request."""
        assert self._upload is not None
        if self.state is LEAVING or work.done():
            self._upload = None
            os.close(descriptor)
            return
        began = time.perf_counter()
        try:
            more = next(self._upload, None) is not None
        except OSError as error:
            self._upload = None
            os.close(descriptor)
            self._finish(work, 0, None, OSError(error.errno, f"arguments: {error.strerror}"))
            return
        self._pool.transfer_s += time.perf_counter() - began
        if more:
            self._pool.loop.call_soon(self._upload_next, work, descriptor, segments)
            return
        self._upload = None
        if work.rounds == 1:
            work.call.began()
        self.busy_since = time.perf_counter()
        message = wire.CONTROL_MESSAGE.pack(wire.MEMORY, self._serial)
        try:
            socket.send_fds(self._control, [message], [descriptor])
        except OSError:
            self._was_reset = True
            self._pool.child_silent(self)
            return
        finally:
            os.close(descriptor)
        payload = wire.encode_sizes(segments)
        header = wire.REQUEST_HEADER.pack(len(payload), wire.RUN_SHARED, self._serial)
        self._send(header + payload)

    def _terminate(self) -> None:
        self.is_doomed = True
        self._pool.send_signal(self, signal.SIGTERM)
        self._timer = self._pool.loop.call_later(self._pool.term_grace_s, self.kill)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Upwards

    def _receive(self) -> bool:
        """Read once and handle whole frames; whether there may be more."""
        try:
            data = self._data.recv(wire.READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:  # it died with a request unread
            self._was_reset = True
            data = b""
        except OSError:
            data = b""
        if not data:
            self._silence()
            self._pool.child_silent(self)
            return False
        if self._unread:
            data = self._unread + data
        header = wire.ANSWER_HEADER
        start = 0
        while len(data) - start >= header.size:
            size, kind, flags, run_s = header.unpack_from(data, start)
            end = start + header.size + size
            if end > len(data):
                break
            self._handle(kind, data[start + header.size : end], flags, run_s)
            start = end
        self._unread = data[start:]
        return True

    def _silence(self) -> None:
        if not self.is_silent:
            self.is_silent = True
            self._pool.loop.remove_reader(self._data.fileno())
            self._pool.loop.remove_writer(self._data.fileno())

    def _handle(self, kind: int, payload: bytes, flags: int, run_s: float) -> None:
        if kind == wire.REPORT:
            self._apply_report(payload)
        elif kind == wire.LOG:
            self._log(_log_line.decode(payload))
        elif kind == wire.READY:
            self._pool.child_ready(self)
        elif kind == wire.SETUP_FAILED:
            self._pool.setup_failed(self, payload.decode("utf-8", "replace"))
        elif kind == wire.OUT_OF_MEMORY:
            self._is_out_of_memory = True  # its death, which follows, is the answer
        elif self.work is not None:
            if flags & wire.WROTE_OUTPUT:
                self._stdout.drain()
                self._stderr.drain()
            self._answered(self.work, kind, payload, run_s)

    def _answered(self, work: Work, kind: int, payload: bytes, run_s: float) -> None:
        error: BaseException | None = None
        if kind == wire.RETURNED_SHARED:  # the next job's memory must not come in between
            self._finish(work, run_s, *self._receive_shared(payload))
            return
        if kind == wire.RETURNED:
            self._finish(work, run_s, payload, None)
            return
        if kind == wire.RUN_AGAIN:
            again = _again.decode(payload)
            error = RunAgain(again.delay_s, uses_attempt=again.uses_attempt)
        elif kind == wire.INTERRUPTED:
            error = JobInterrupted(payload.decode("utf-8", "replace"))
        else:
            raised = _raised.decode(payload)
            error = RemoteFailure(
                raised.error_type,
                raised.error,
                lineage=raised.lineage,
                traceback=raised.traceback,
            )
        self._finish(work, run_s, None, error)

    def _finish(
        self, work: Work, run_s: float, result: Any, error: BaseException | None
    ) -> None:
        """Give the child its next work first, so that it runs while this result is decoded."""
        if self._timer is not None and not self.is_doomed:
            self._cancel_timer()
        if run_s:
            self._pool.transfer_s += max(0.0, time.perf_counter() - self.busy_since - run_s)
        self.work = None
        work.child = None
        self.jobs_done += 1
        if self.state is BUSY:
            self.state = LEAVING if self.is_doomed else IDLE
        self._pool.child_free(self, work)
        if work.done():
            return
        if error is None:
            try:
                value = pickle.loads(result) if type(result) is bytes else result
                if type(result) is list:
                    value = wire.unpack_segments(result)
            except BaseException as raised:
                error = _undecodable(raised)
        if error is None:
            work.set_result(value)
        else:
            work.set_exception(error)

    def _receive_shared(self, payload: bytes) -> tuple[Any, BaseException | None]:
        try:
            _, descriptors, _, _ = socket.recv_fds(self._control, wire.CONTROL_MESSAGE.size, 1)
            if not descriptors:
                raise OSError("too many open files to take in the result")
            return memory_file.read_segments(descriptors[0], wire.decode_sizes(payload)), None
        except (OSError, ValueError) as error:
            return None, error

    def _apply_report(self, payload: bytes) -> None:
        work = self.work
        if work is None or work.done():
            return
        if self._reporter is None:
            self._reporter = RecordReporter(work.call.job)
        report = _report.decode(payload)
        if report.progress is not None:
            self._reporter.progress(report.progress)
        for metric in report.metrics:
            self._reporter.metric(metric)
        if report.metrics_dropped:
            work.call.job.activity_made().metrics_dropped += report.metrics_dropped

    def _extra(self) -> dict[str, Any]:
        job = None if self.work is None else self.work.call.job
        return {
            "job_id": None if job is None else job.id,
            "task": None if job is None else job.task.name,
            "child_pid": self.pid,
        }

    def _log(self, line: wire.LogLine) -> None:
        logger = logging.getLogger(line.logger if line.logger != "root" else None)
        if not logger.isEnabledFor(line.level):
            return
        record = logger.makeRecord(
            line.logger, line.level, "(child)", 0, line.message, (), None, extra=self._extra()
        )
        record.created = line.created
        record.exc_text = line.exception
        logger.handle(record)

    def _log_output(self, stream: str, line: str) -> None:
        child_logger.info("%s", line, extra={**self._extra(), "stream": stream})


def _undecodable(raised: BaseException) -> RemoteFailure:
    """A result that the parent cannot unpickle fails its job, and only it."""
    return RemoteFailure(
        type(raised).__name__,
        f"the result cannot be read in the parent process: {raised}"[:1000],
        lineage=tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(raised).__mro__),
        traceback="",
    )


def _socket_pair(undo: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end, which does not block, and the child's, which does."""
    ours, theirs = socket.socketpair()
    undo.callback(ours.close)
    undo.callback(theirs.close)
    ours.setblocking(False)
    return ours, theirs


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    return reader, writer
