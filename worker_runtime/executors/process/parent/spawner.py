"""The parent's end of the forkserver: starts it, orders children, hears of their deaths.

A forkserver that dies is started again, with a pause that grows while it keeps dying. Its children
live on: they hold their own sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Protocol

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ConfigurationError
from worker_runtime.executors.process import orders
from worker_runtime.executors.process.catalogue import TaskCatalogue
from worker_runtime.executors.process.parent.output import OutputReader
from worker_runtime.settings import secret_variables

logger = logging.getLogger("worker_runtime.executors")

RETRY_S_MIN = 0.5
RETRY_S_MAX = 30.0
_FAILURES_MAX = 2  # while opening
_CLOSE_WITHIN_S = 2.0

_BOOTSTRAP = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from worker_runtime.executors.process.child.forkserver import main; main(int(sys.argv[1]))"
)
_BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_event: msgspec.msgpack.Decoder[orders.Event] = msgspec.msgpack.Decoder(orders.Event)


class SpawnerListener(Protocol):
    """Who is told what happens to children. Each is called on the event loop's thread."""

    def spawner_ready(self) -> None: ...

    def child_forked(self, token: int, pid: int) -> None: ...

    def child_not_forked(self, token: int, error: str) -> None: ...

    def child_exited(self, pid: int, status: int) -> None: ...

    def spawner_lost(self) -> None:
        """The forkserver died; of the children it forked no exit will be reported."""
        ...


def retry_delay_s(failures: int) -> float:
    """How long to wait after the n-th failure in a row (1 for the first)."""
    return float(min(RETRY_S_MAX, RETRY_S_MIN * 2 ** min(failures - 1, 10)))


class Spawner:
    def __init__(
        self,
        catalogue: TaskCatalogue,
        listener: SpawnerListener,
        clock: Clock,
        *,
        preload: bool,
        memory_bytes_max: int | None,
        threads_per_child: int,
        start_timeout_s: float,
    ) -> None:
        self._catalogue = catalogue
        self._listener = listener
        self._monotonic = clock.monotonic
        self._preload = preload
        self._memory_bytes_max = memory_bytes_max
        self._threads_per_child = threads_per_child
        self._start_timeout_s = start_timeout_s
        self._loop: asyncio.AbstractEventLoop
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._output: OutputReader | None = None
        self._unread = bytearray()
        self._loaded: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._is_closed = False
        self.is_ready = False

    async def open(self) -> None:
        """Start the forkserver and wait until it has imported the tasks' modules. Raises
        ConfigurationError where they do not import, or not in time."""
        self._loop = asyncio.get_running_loop()
        self._loaded = self._loop.create_future()
        self._start()
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._loaded
        except TimeoutError:
            raise ConfigurationError(
                f"the process tasks' modules did not import within {self._start_timeout_s:g} s"
            ) from None
        finally:
            self._loaded = None

    def fork(self, token: int, descriptors: Sequence[int]) -> None:
        """Order a child that gets `descriptors`. Raises OSError."""
        if self._control is None:
            raise OSError("the forkserver is not running")
        socket.send_fds(self._control, [orders.framed(orders.Fork(token))], descriptors)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child and whatever it started."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.sendall(orders.framed(orders.Signal(pid, number)))

    async def close(self) -> None:
        """End the forkserver and with it every child that is left."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._disconnect()
        process, self._process = self._process, None
        if process is None:
            return
        give_up_at = self._monotonic() + _CLOSE_WITHIN_S
        while process.poll() is None:
            if self._monotonic() > give_up_at:
                process.kill()
            await asyncio.sleep(0.005)
        if self._output is not None:
            self._output.close()
            self._output = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-c",
                    _BOOTSTRAP,
                    str(theirs.fileno()),
                    json.dumps(sys.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=(theirs.fileno(),),
                env=self._environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
            )
        except BaseException:
            ours.close()
            os.close(reader)
            raise
        finally:
            theirs.close()
            os.close(writer)
        self._control = ours
        self._unread.clear()
        self._output = OutputReader(self._loop, reader, _log_output)
        self._loop.add_reader(ours.fileno(), self._receive)
        config = orders.ForkserverConfig(
            parent_pid=os.getpid(),
            argv=sys.argv,
            catalogue=self._catalogue,
            preload=self._preload,
            log_levels=_log_levels(),
            memory_bytes_max=self._memory_bytes_max,
        )
        ours.sendall(orders.framed(config))
        ours.setblocking(False)

    def _environment(self) -> dict[str, str]:
        """The parent's own without its secrets: a task has no use for the worker's token, and what
        it starts has none either. Number libraries get a child's share of the cores, unless the
        parent's says."""
        secrets = secret_variables()
        kept = {name: text for name, text in os.environ.items() if name not in secrets}
        return {**dict.fromkeys(_BLAS_THREADS, str(self._threads_per_child)), **kept}

    def _receive(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        self._unread += data
        head = orders.LENGTH.size
        while len(self._unread) >= head:
            end = head + orders.LENGTH.unpack_from(self._unread)[0]
            if len(self._unread) < end:
                return
            event = _event.decode(bytes(self._unread[head:end]))
            del self._unread[:end]
            self._handle(event)

    def _handle(self, event: orders.Event) -> None:
        match event:
            case orders.Forked(token, pid):
                self._listener.child_forked(token, pid)
            case orders.Exited(pid, status):
                self._listener.child_exited(pid, status)
            case orders.ForkFailed(token, error):
                self._listener.child_not_forked(token, error)
            case orders.Loaded():
                self._failures = 0
                self.is_ready = True
                self._settle_open(None)
                self._listener.spawner_ready()
            case orders.Threaded():
                logger.info(
                    "the process tasks' modules start threads when imported; "
                    "each child imports them itself"
                )
                self._preload = False
            case orders.LoadFailed(error, text):
                logger.error("the process tasks' modules do not import in a child:\n%s", text)
                self._settle_open(
                    ConfigurationError(
                        f"the process tasks' modules do not import in a child process: {error}"
                    )
                )

    def _settle_open(self, error: ConfigurationError | None) -> None:
        if self._loaded is None or self._loaded.done():
            return
        if error is None:
            self._loaded.set_result(None)
        else:
            self._loaded.set_exception(error)

    def _disconnect(self) -> None:
        self.is_ready = False
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            self._control = None

    def _lost(self) -> None:
        """The forkserver is gone: clear up after it and start another."""
        was_ready = self.is_ready
        self._disconnect()
        assert self._process is not None
        self._process.kill()
        status = self._process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None
        if self._is_closed or (self._loaded is not None and self._loaded.done()):
            return
        if was_ready:
            logger.error("the forkserver died (status %d) and is started again", status)
            self._listener.spawner_lost()
        self._failures += 1
        if self._failures > _FAILURES_MAX and self._loaded is not None:
            self._settle_open(
                ConfigurationError(
                    "the process tasks' modules end the process that imports them: it "
                    f"{describe_status(_wait_status(status))[0]}"
                )
            )
            return
        delay_s = 0.0 if self._failures == 1 else retry_delay_s(self._failures - 1)
        self._timer = self._loop.call_later(delay_s, self._start)


def _log_output(line: str) -> None:
    logging.getLogger("worker_runtime.child").info("%s", line, extra={"stream": "forkserver"})


def _log_levels() -> dict[str, int]:
    """The levels set in this process by logger name (empty for the root), for children to filter at
    the source."""
    levels = {"": logging.root.level}
    for name, found in logging.root.manager.loggerDict.items():
        if isinstance(found, logging.Logger) and found.level != logging.NOTSET:
            levels[name] = found.level
    return levels


def _wait_status(returncode: int) -> int:
    """A Popen's return code as `os.waitpid` would give it."""
    return -returncode if returncode < 0 else returncode << 8


def describe_status(status: int | None) -> tuple[str, str]:
    """How a process ended, as a clause and as one word. `status` as `os.waitpid` gives it; None
    where it is not known."""
    if status is None:
        return "is gone; how it ended is not known", "lost"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"SIG{number}"
        return f"was killed by signal {number} ({name})", name.lower()
    code = os.WEXITSTATUS(status)
    return f"exited with code {code} before it answered", f"exit_{code}"
