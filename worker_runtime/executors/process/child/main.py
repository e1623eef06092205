"""A child process: runs one task at a time for its parent and answers in bytes.

Whatever a task returns or raises becomes an answer, and no answer can fail to decode in the parent:
exceptions are sent as text. The child dies with its parent, at once.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import contextvars
import faulthandler
import logging
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, NoReturn

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import JobInterrupted, RunAgain
from worker_runtime.executors.process import catalogue as task_catalogue
from worker_runtime.executors.process import frames, memory_file
from worker_runtime.executors.process.child.reporting import (
    Channel,
    LogForwarder,
    ReportBuffer,
    StandardOutput,
    small_thread,
)
from worker_runtime.executors.returned import finished, is_unfinished, order_in
from worker_runtime.model.bounded import cut, error_text, leaves_of, traceback_text
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.policy import qualified_name

ERROR_BYTES_MAX = 8192
_UNREADABLE = "the arguments cannot be read in the child process: "
_LEFTOVERS_GRACE_S = 1.0
_LINEAGES_MAX = 100
_OUT_OF_MEMORY_EXIT_CODE = 137
_ONE_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Ancillary = tuple[int, int, bytes]


@dataclass(frozen=True, slots=True)
class Program:
    """What a child runs: the tasks by name, and what to do once before the first."""

    tasks: Mapping[str, TaskDefinition]
    setup: Callable[[], Any] | None


def main(
    descriptors: Sequence[int],
    program: Program | None,
    *,
    catalogue: task_catalogue.TaskCatalogue,
    log_levels: dict[str, int],
    memory_bytes_max: int | None,
) -> int:
    """The program of a forked child; gives its exit code.

    `descriptors` are the request socket, channel, stdout pipe and stderr pipe. A `program` of
    None is loaded here, from `catalogue`.
    """
    requests, channel, stdout, stderr = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    child = Child(
        socket.socket(fileno=requests),
        socket.socket(fileno=channel),
        Clock(),
        has_memory_limit=memory_bytes_max is not None,
    )
    child.prepare(log_levels)
    with contextlib.ExitStack() as stack:
        try:
            if program is None:
                program = Program(*task_catalogue.load(catalogue))
            if memory_bytes_max is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes_max, memory_bytes_max))
            state = _enter(program.setup, stack)
        except BaseException:
            child.channel.send(frames.SETUP_FAILED, cut(traceback.format_exc(), 8192).encode())
            return 1
        try:
            child.serve(program.tasks, state)
        except JobInterrupted:  # SIGTERM between a task's end and its answer
            child.die_of_sigterm()
    return 0


def _enter(setup: Callable[[], Any] | None, stack: contextlib.ExitStack) -> Any:
    """The setup's value; of a context manager what it yields, until the child ends."""
    if setup is None:
        return None
    value = setup()
    if hasattr(value, "__enter__") and hasattr(value, "__exit__"):
        return stack.enter_context(value)
    return value


class Child:
    """One child's life between two sockets.

    The main thread reads requests and runs them; another reads the channel, so that a stop order or
    the parent's death is noticed while a task runs.
    """

    def __init__(
        self,
        requests: socket.socket,
        channel: socket.socket,
        clock: Clock,
        *,
        has_memory_limit: bool,
    ) -> None:
        self._clock = clock
        self.channel = Channel(channel)
        self._requests = requests
        self._orders = channel
        self._has_memory_limit = has_memory_limit
        self._reports = ReportBuffer(self.channel, clock)
        self._logs = LogForwarder(self.channel, clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serial = 0
        self._stopped_serial = 0
        self._context: JobContext | None = None
        self._coroutine: asyncio.Task[Any] | None = None
        self._is_in_task = False
        self._is_terminated = False
        self._pid = os.getpid()

    def prepare(self, log_levels: dict[str, int]) -> None:
        """Take over the process: output, logging, signals, and the watch on the parent."""
        self._output = StandardOutput()
        faulthandler.enable(file=2)
        logging.root.handlers[:] = [self._logs]
        for name, level in log_levels.items():
            logging.getLogger(name or None).setLevel(level)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.register_at_fork(after_in_child=self._become_copy)
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:  # its generator was forked too: siblings would draw the same
            numpy_random.seed()
        small_thread(self._read_orders, "worker-runtime-orders")

    def serve(self, tasks: Mapping[str, TaskDefinition], state: Any) -> None:
        """Run requests until the parent says to quit."""
        self._tasks = tasks
        self._state = state
        self._output.adopt()
        self.channel.send(frames.READY)
        buffer = memoryview(bytearray(frames.REQUEST_BYTES_MAX))
        header = frames.REQUEST_HEADER
        while True:
            size, ancillary, _, _ = self._requests.recvmsg_into(
                [buffer], _ONE_DESCRIPTOR, _CLOSE_ON_EXEC
            )
            if size < header.size:
                _end_group()  # the parent is dead
            kind, serial = header.unpack_from(buffer)
            if kind == frames.QUIT:
                return
            self._answer(kind, serial, buffer[header.size : size], ancillary)

    def _answer(
        self, kind: int, serial: int, payload: memoryview, ancillary: list[Ancillary]
    ) -> None:
        """Run one request and send its answer."""
        run_s = 0.0
        self._serial = serial
        self._is_in_task = True
        about = _UNREADABLE
        try:
            request = self._decode(kind, payload, ancillary)
            name, args, kwargs, job_id, queue, attempt, label = request
            about = ""
            task = self._tasks[name]
            context = None
            if task.signature.context_name is not None:
                context = JobContext(
                    job_id=job_id,
                    task=name,
                    queue=queue,
                    attempt=attempt,
                    reporter=self._reports,
                    clock=self._clock,
                    label=label,
                    state=self._state,
                )
            began = self._clock.monotonic()
            try:
                value = self._run(task, context, args, kwargs)
            finally:
                run_s = self._clock.monotonic() - began
            del request, args, kwargs
            if type(value) is RunAgain:
                raise value
            answer, packed = frames.RETURNED, self._pack(value)
        except BaseException as error:
            self._end_copy(error)
            answer, packed = self._describe(error, about)
        self._end_copy()
        self._is_in_task = False
        self._context = None
        if self._is_terminated:
            self.die_of_sigterm()
        flags = self._flush()
        if isinstance(packed, bytes):
            self.channel.send(answer, packed, flags, run_s)
        else:
            self._send_shared(packed, flags, run_s)
        if answer == frames.OUT_OF_MEMORY:
            os._exit(_OUT_OF_MEMORY_EXIT_CODE)

    def _decode(self, kind: int, payload: memoryview, ancillary: list[Ancillary]) -> frames.Request:
        request: frames.Request
        if kind == frames.RUN:
            request = pickle.loads(payload)
            return request
        if not ancillary:
            raise OSError("too many open files to take in the arguments")
        (descriptor,) = array.array("i", ancillary[0][2])
        segments = memory_file.read_segments(descriptor, frames.decode_sizes(payload))
        request = frames.unpack_segments(segments)
        return request

    def _run(
        self,
        task: TaskDefinition,
        context: JobContext | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> Any:
        self._context = context
        if context is not None and self._stopped_serial == self._serial:
            context.stop()
        value = contextvars.copy_context().run(task.call, context, args, kwargs)
        if type(value) is CoroutineType:
            value = self._run_coroutine(value)
        return self._run_coroutine(finished(value)) if is_unfinished(value) else value

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run an async task to its end in the child's own loop, and end what it left behind."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        loop = self._loop
        self._coroutine = task = loop.create_task(coroutine)
        if self._stopped_serial == self._serial:
            task.cancel()
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if self._stopped_serial == self._serial:
                raise JobInterrupted("cancelled by a stop order") from None
            raise
        finally:
            self._coroutine = None
            leftovers = asyncio.all_tasks(loop)
            for other in leftovers:
                other.cancel()
            if leftovers and not self._is_terminated:
                loop.run_until_complete(asyncio.wait(leftovers, timeout=_LEFTOVERS_GRACE_S))

    def _pack(self, value: Any) -> bytes | list[memoryview]:
        try:
            return frames.pack(value)
        except (MemoryError, JobInterrupted):
            raise
        except BaseException as error:
            raise TypeError(
                f"the result, a {type(value).__name__}, cannot be sent to the parent process: "
                f"{error_text(error, 1000)}"
            ) from None

    def _describe(self, error: BaseException, about: str = "") -> tuple[int, bytes]:
        """The answer for what a task raised, or its arguments did."""
        error = order_in(error)
        if isinstance(error, RunAgain):
            again = frames.Again(error.delay_s, error.uses_attempt)
            return frames.RUN_AGAIN, msgspec.msgpack.encode(again)
        if isinstance(error, JobInterrupted):
            return frames.INTERRUPTED, error_text(error, ERROR_BYTES_MAX).encode()
        is_memory = any(isinstance(leaf, MemoryError) for leaf in leaves_of(error))
        if self._has_memory_limit and is_memory:
            return frames.OUT_OF_MEMORY, b""
        raised = frames.Raised(
            type(error).__name__,
            about + error_text(error, ERROR_BYTES_MAX),
            _lineage(error),
            traceback_text(error, ERROR_BYTES_MAX),
            _leaf_lineages(error),
        )
        return frames.RAISED, msgspec.msgpack.encode(raised)

    def _flush(self) -> int:
        """Send what the task left unsent; the answer's flags."""
        self._reports.flush()
        self._logs.tell_dropped()
        return frames.WROTE_OUTPUT if self._output.flush() else 0

    def _send_shared(self, segments: list[memoryview], flags: int, run_s: float) -> None:
        try:
            upload = memory_file.Upload(segments)
            try:
                while upload.step():
                    pass
                socket.send_fds(self._requests, [b"m"], [upload.descriptor])
            finally:
                upload.close()
        except OSError as error:
            answer, packed = self._describe(error)
            self.channel.send(answer, packed, flags, run_s)
            return
        self.channel.send(frames.RETURNED_SHARED, frames.encode_sizes(upload.sizes), flags, run_s)

    def _read_orders(self) -> None:
        """Obey stop orders; when the channel closes the parent is dead, and so is this process and
        whatever it started."""
        while True:
            try:
                order = self._orders.recv(frames.STOP.size)
            except OSError:
                order = b""
            if len(order) < frames.STOP.size:
                _end_group()
            self._stop(frames.STOP.unpack(order)[0])

    def _stop(self, serial: int) -> None:
        self._stopped_serial = serial
        if self._serial != serial:
            return  # not begun yet: `_run` looks
        context, coroutine, loop = self._context, self._coroutine, self._loop
        if context is not None:
            context.stop()
        if coroutine is not None and loop is not None:
            loop.call_soon_threadsafe(coroutine.cancel)

    def _terminate(self, number: int, frame: object) -> None:
        """SIGTERM: unwind the task, so that its `finally` blocks run, then die of the signal."""
        if self._is_in_task and not self._is_terminated:
            self._is_terminated = True
            raise JobInterrupted("terminated by SIGTERM")
        if not self._is_in_task:
            self.die_of_sigterm()

    def _become_copy(self) -> None:
        """In a process that a task forked: it is not the child and must not pass for it."""
        self.channel.mute()
        self._requests.close()
        if signal.getsignal(signal.SIGTERM) == self._terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _end_copy(self, error: BaseException | None = None) -> None:
        """End such a process where it comes back from the task.

        Danger: its answer would be taken for that of the child's next job.
        """
        if os.getpid() == self._pid:
            return
        code: object = 0 if error is None else 1
        with contextlib.suppress(BaseException):
            if isinstance(error, SystemExit):
                code = error.code or 0
            elif error is not None:
                traceback.print_exception(error)
            self._output.flush()
        os._exit(code if isinstance(code, int) else 1)

    def die_of_sigterm(self) -> None:
        """End as if the signal had never been caught, so that the exit status is truthful."""
        self._flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()


def _end_group() -> NoReturn:
    """End this process and whatever it started, at once."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _leaf_lineages(error: BaseException) -> tuple[tuple[str, ...], ...]:
    """Those of the exceptions in a group, each once; an empty one stands for too many more."""
    if not isinstance(error, BaseExceptionGroup):
        return ()
    found: dict[tuple[str, ...], None] = {}
    for leaf in leaves_of(error):
        found[_lineage(leaf) if len(found) < _LINEAGES_MAX else ()] = None
    return tuple(found)


def _lineage(error: BaseException) -> tuple[str, ...]:
    """The names of its classes, most derived first."""
    return tuple(_public_name(kind) for kind in type(error).__mro__)


def _public_name(kind: type) -> str:
    """A class's qualified name as the parent knows it."""
    name = qualified_name(kind)
    alias = f"{task_catalogue.MAIN_ALIAS}."
    return f"__main__.{name.removeprefix(alias)}" if name.startswith(alias) else name
