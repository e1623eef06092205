"""The process that children are forked from: single-threaded, with the tasks' modules imported.

It forks on request, passes signals on, reports deaths, and kills every child when its parent dies
in whatever way. It alone reaps children, so a signal can never reach a recycled process id.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import NoReturn

import msgspec

from worker_runtime.executors.process import catalogue as task_catalogue
from worker_runtime.executors.process import frames, orders
from worker_runtime.executors.process.child import main as child

_PARENT_CHECK_S = 0.5
_READ_BYTES = 65_536
_TEXT_CHARS_MAX = 8_000
_PR_SET_CHILD_SUBREAPER = 36

_config = msgspec.msgpack.Decoder(orders.ForkserverConfig)
_order: msgspec.msgpack.Decoder[orders.Order] = msgspec.msgpack.Decoder(orders.Order)


def main(control_descriptor: int) -> None:
    """The program of the forkserver's process."""
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)
    Forkserver(control).run()


class Forkserver:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: set[int] = set()
        self._unread = bytearray()
        self._descriptors: list[int] = []
        self._wakeup_writer: socket.socket
        self._config: orders.ForkserverConfig
        self._program: child.Program | None = None

    def run(self) -> None:
        self._config = _config.decode(self._receive_config())
        sys.argv[:] = self._config.argv
        if not self._load():
            return
        _adopt_orphans()
        wakeup, selector = self._watch()
        self._send(orders.Loaded())
        try:
            while os.getppid() == self._config.parent_pid:
                for key, _ in selector.select(_PARENT_CHECK_S):
                    if key.fileobj is wakeup:
                        with contextlib.suppress(BlockingIOError):
                            wakeup.recv(_READ_BYTES)
                        self._reap()
                    elif not self._obey(selector, wakeup):
                        return
        finally:
            self._kill_all()

    def _receive_config(self) -> bytes:
        head = self._control.recv(orders.LENGTH.size, socket.MSG_WAITALL)
        if len(head) < orders.LENGTH.size:
            sys.exit(0)  # the parent died first
        return self._control.recv(orders.LENGTH.unpack(head)[0], socket.MSG_WAITALL)

    def _load(self) -> bool:
        if not self._config.preload:
            return True
        try:
            self._program = child.Program(*task_catalogue.load(self._config.catalogue))
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"[:_TEXT_CHARS_MAX]
            self._send(orders.LoadFailed(text, traceback.format_exc()[-_TEXT_CHARS_MAX:]))
            return False
        if _thread_count() > 1:
            self._send(orders.Threaded())
            return False
        gc.collect()
        gc.freeze()  # children share these pages until they write to them; collecting would
        return True

    def _watch(self) -> tuple[socket.socket, selectors.BaseSelector]:
        wakeup, self._wakeup_writer = socket.socketpair()
        wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(wakeup, selectors.EVENT_READ)
        selector.register(self._control, selectors.EVENT_READ)
        return wakeup, selector

    def _obey(self, selector: selectors.BaseSelector, wakeup: socket.socket) -> bool:
        """Carry out the orders that have come; False once the parent is gone."""
        try:
            data, descriptors = frames.receive(self._control, _READ_BYTES, orders.CHILD_DESCRIPTORS)
        except ConnectionResetError:
            return False
        if not data:
            return False
        self._unread += data
        self._descriptors += descriptors
        while len(self._unread) >= orders.LENGTH.size:
            end = orders.LENGTH.size + orders.LENGTH.unpack_from(self._unread)[0]
            if len(self._unread) < end:
                break
            order = _order.decode(bytes(self._unread[orders.LENGTH.size : end]))
            del self._unread[:end]
            if isinstance(order, orders.Signal):
                self._signal(order)
            else:
                self._fork(order, selector, wakeup)
        return True

    def _signal(self, order: orders.Signal) -> None:
        if order.pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(order.pid, order.number)

    def _fork(
        self, order: orders.Fork, selector: selectors.BaseSelector, wakeup: socket.socket
    ) -> None:
        descriptors = self._descriptors[: orders.CHILD_DESCRIPTORS]
        del self._descriptors[: orders.CHILD_DESCRIPTORS]
        try:
            if len(descriptors) < orders.CHILD_DESCRIPTORS:
                raise OSError("too many open files in the forkserver")
            pid = os.fork()
        except OSError as error:
            self._send(orders.ForkFailed(order.token, str(error)))
        else:
            if pid == 0:
                self._become_child(descriptors, selector, wakeup)
            with contextlib.suppress(OSError):  # the child does the same; whoever is first
                os.setpgid(pid, pid)
            self._pids.add(pid)
            self._send(orders.Forked(order.token, pid))
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_child(
        self, descriptors: list[int], selector: selectors.BaseSelector, wakeup: socket.socket
    ) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)  # from 3.12 asyncio has done so at the fork, if it is imported
            self._wakeup_writer.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            selector.close()
            wakeup.close()
            self._control.close()
            code = child.main(
                descriptors,
                self._program,
                catalogue=self._config.catalogue,
                log_levels=self._config.log_levels,
                memory_bytes_max=self._config.memory_bytes_max,
            )
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Bury the children that died, and what dead children had started."""
        with contextlib.suppress(ChildProcessError):  # there is none left
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                pid = found.si_pid
                if pid in self._pids:
                    # While it is unreaped its group's id is still its own: end what it started.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                if pid in self._pids:
                    self._pids.discard(pid)
                    self._send(orders.Exited(pid, status))

    def _kill_all(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _send(self, event: orders.Event) -> None:
        with contextlib.suppress(OSError):  # a dead parent is noticed by the loop
            self._control.sendall(orders.framed(event))


def _adopt_orphans() -> None:
    """Become the parent of what a dead child leaves. It would else go to process 1, which in a
    container is the program itself, and reaps nothing that it did not start."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _thread_count() -> int:
    """Threads of this process; where that can be told, also those that no Python code started."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
