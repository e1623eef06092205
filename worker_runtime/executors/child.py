"""A child process: runs one task at a time for its parent and answers in bytes.

Whatever a task returns or raises becomes an answer, and no answer can fail to decode in the parent:
exceptions are sent as text. The child dies with its parent, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import inspect
import logging
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import msgspec

from worker_runtime.context import JobContext
from worker_runtime.error_text import cut, error_text, traceback_text
from worker_runtime.errors import JobInterrupted, RunAgain
from worker_runtime.executors import memory_file, task_catalogue, wire
from worker_runtime.executors.child_reporting import (
    Channel,
    LogForwarder,
    ReportBuffer,
    small_thread,
    text_output,
)
from worker_runtime.task import TaskDefinition, qualified_name

ERROR_BYTES_MAX = 8192
_LEFTOVERS_GRACE_S = 1.0
_OUT_OF_MEMORY_EXIT_CODE = 137


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

    `descriptors` are the data socket, control socket, stdout pipe and stderr pipe. A `program` of
    None is loaded here, from `catalogue`.
    """
    data_descriptor, control_descriptor, stdout, stderr = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    data = socket.socket(fileno=data_descriptor)
    control = socket.socket(fileno=control_descriptor)
    child = Child(data, control, has_memory_limit=memory_bytes_max is not None)
    child.prepare(log_levels)
    with contextlib.ExitStack() as stack:
        try:
            if program is None:
                program = Program(*task_catalogue.load(catalogue))
            if memory_bytes_max is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes_max, memory_bytes_max))
            state = _enter(program.setup, stack)
        except BaseException:
            child.channel.send(wire.SETUP_FAILED, cut(traceback.format_exc(), 8192).encode())
            return 1
        try:
            child.serve(program.tasks, state)
        except JobInterrupted:  # SIGTERM between a task's end and its answer
            child.die_of_sigterm()
    return 0


def _enter(setup: Callable[[], Any] | None, stack: contextlib.ExitStack) -> Any:
    """The setup's value; of a context manager what it yields, and it is left when the child ends."""
    if setup is None:
        return None
    value = setup()
    if hasattr(value, "__enter__") and hasattr(value, "__exit__"):
        return stack.enter_context(value)
    return value


class Child:
    """One child's life between two sockets.

    The main thread reads requests and runs them; another reads the control socket, so that a stop
    order or the parent's death is noticed while a task runs.
    """

    def __init__(
        self, data: socket.socket, control: socket.socket, *, has_memory_limit: bool
    ) -> None:
        self.channel = Channel(data)
        self._data = data
        self._control = control
        self._has_memory_limit = has_memory_limit
        self._reports = ReportBuffer(self.channel)
        self._logs = LogForwarder(self.channel)
        self._memory: SimpleQueue[int] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serial = 0
        self._stopped_serial = 0
        self._context: JobContext | None = None
        self._coroutine: asyncio.Task[Any] | None = None
        self._is_in_task = False
        self._is_terminated = False

    def prepare(self, log_levels: dict[str, int]) -> None:
        """Take over the process: output, logging, signals, and the watch on the parent."""
        self._stdout_raw, sys.stdout = text_output(1)
        self._stderr_raw, sys.stderr = text_output(2)
        faulthandler.enable(file=2)
        logging.root.handlers[:] = [self._logs]
        for name, level in log_levels.items():
            logging.getLogger(name or None).setLevel(level)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:  # its generator was forked too: siblings would draw the same
            numpy_random.seed()
        small_thread(self._watch_parent, "worker-runtime-control")

    def serve(self, tasks: Mapping[str, TaskDefinition], state: Any) -> None:
        """Run requests until the parent closes the data socket."""
        self._tasks = tasks
        self._state = state
        self.channel.send(wire.READY)
        header = wire.REQUEST_HEADER
        while True:
            frame: bytes | bytearray = self._data.recv(wire.READ_BYTES)
            if not frame:
                return
            while len(frame) < header.size:
                frame += self._data.recv(wire.READ_BYTES)
            size, kind, serial = header.unpack_from(frame)
            if len(frame) < header.size + size:
                frame = self._rest(bytearray(frame), header.size + size)
            self._answer(kind, serial, memoryview(frame)[header.size :])

    def _rest(self, frame: bytearray, size: int) -> bytearray:
        while len(frame) < size:
            more = self._data.recv(min(wire.INLINE_BYTES_MAX, size - len(frame)))
            if not more:
                os._exit(1)
            frame += more
        return frame

    def _answer(self, kind: int, serial: int, payload: memoryview) -> None:
        """Run one request and send its answer."""
        run_s = 0.0
        self._serial = serial
        self._is_in_task = True
        try:
            name, args, kwargs, job_id, queue, attempt, label = self._decode(kind, payload)
            task = self._tasks[name]
            context = None
            if task.signature.context_name is not None:
                context = JobContext(
                    job_id=job_id,
                    task=name,
                    queue=queue,
                    attempt=attempt,
                    reporter=self._reports,
                    label=label,
                    state=self._state,
                )
            began = time.perf_counter()
            try:
                value = self._run(task, context, args, kwargs)
            finally:
                run_s = time.perf_counter() - began
            del args, kwargs
            if type(value) is RunAgain:
                raise value
            answer, packed = wire.RETURNED, self._pack(value)
        except BaseException as error:
            answer, packed = self._describe(error)
        self._is_in_task = False
        self._context = None
        if self._is_terminated:
            self.die_of_sigterm()
        flags = self._flush()
        if isinstance(packed, bytes):
            self.channel.send(answer, packed, flags, run_s)
        else:
            self._send_shared(serial, packed, flags, run_s)
        if answer == wire.OUT_OF_MEMORY:
            os._exit(_OUT_OF_MEMORY_EXIT_CODE)

    def _decode(self, kind: int, payload: memoryview) -> wire.Request:
        request: wire.Request
        if kind == wire.RUN:
            request = pickle.loads(payload)
        else:
            segments = memory_file.read_segments(self._memory.get(), wire.decode_sizes(payload))
            request = wire.unpack_segments(segments)
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
        return self._run_coroutine(value) if inspect.iscoroutine(value) else value

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
            return wire.pack(value)
        except (MemoryError, JobInterrupted):
            raise
        except BaseException as error:
            raise TypeError(
                f"the result, a {type(value).__name__}, cannot be sent to the parent process: "
                f"{error_text(error, 1000)}"
            ) from error

    def _describe(self, error: BaseException) -> tuple[int, bytes]:
        """The answer for what a task raised."""
        if isinstance(error, RunAgain):
            again = wire.Again(error.delay_s, error.uses_attempt)
            return wire.RUN_AGAIN, msgspec.msgpack.encode(again)
        if isinstance(error, JobInterrupted):
            return wire.INTERRUPTED, error_text(error, ERROR_BYTES_MAX).encode()
        if self._has_memory_limit and isinstance(error, MemoryError):
            return wire.OUT_OF_MEMORY, b""
        raised = wire.Raised(
            type(error).__name__,
            error_text(error, ERROR_BYTES_MAX),
            tuple(_public_name(kind) for kind in type(error).__mro__),
            traceback_text(error, ERROR_BYTES_MAX),
        )
        return wire.RAISED, msgspec.msgpack.encode(raised)

    def _flush(self) -> int:
        """Send what the task left unsent; the answer's flags."""
        self._reports.flush()
        self._logs.tell_dropped()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a task may have closed or replaced it
                stream.flush()
        if self._stdout_raw.was_written or self._stderr_raw.was_written:
            self._stdout_raw.was_written = self._stderr_raw.was_written = False
            return wire.WROTE_OUTPUT
        return 0

    def _send_shared(
        self, serial: int, segments: list[memoryview], flags: int, run_s: float
    ) -> None:
        try:
            descriptor = memory_file.create()
            try:
                for _ in memory_file.write_chunks(descriptor, segments):
                    pass
                message = wire.CONTROL_MESSAGE.pack(wire.MEMORY, serial)
                socket.send_fds(self._control, [message], [descriptor])
            finally:
                os.close(descriptor)
        except OSError as error:
            answer, packed = self._describe(error)
            self.channel.send(answer, packed, flags, run_s)
            return
        self.channel.send(wire.RETURNED_SHARED, wire.encode_sizes(segments), flags, run_s)

    def _watch_parent(self) -> None:
        """Obey the control socket; when it closes the parent is dead, and so is this process and
        whatever it started."""
        size = wire.CONTROL_MESSAGE.size
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._control, size, 1)
            except OSError:
                message = b""
            if len(message) < size:
                os.killpg(0, signal.SIGKILL)
                os._exit(1)
            kind, serial = wire.CONTROL_MESSAGE.unpack(message)
            if kind == wire.STOP:
                self._stop(serial)
            else:
                self._memory.put(descriptors[0] if descriptors else -1)

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

    def die_of_sigterm(self) -> None:
        """End as if the signal had never been caught, so that the exit status is truthful."""
        self._flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()


def _public_name(kind: type) -> str:
    """A class's qualified name as the parent knows it."""
    name = qualified_name(kind)
    alias = f"{task_catalogue.MAIN_ALIAS}."
    return f"__main__.{name.removeprefix(alias)}" if name.startswith(alias) else name
