"""Run a command and restart it whenever a Python file in a directory changes.

The command gets the reading end of a pipe whose writing end only the supervisor has. A worker that
was started so ends when the pipe does: however the supervisor died, nothing is left behind.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import watchfiles

from worker_runtime.standalone.stop_signals import STOP_SIGNALS

logger = logging.getLogger("worker_runtime.watch")

_LOOK_EVERY_MS = 200
_PIPE_VARIABLE = "_WORKER_RUNTIME_SUPERVISOR"
_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
# The worker ends by itself on time; this is for one that cannot.
_KILLED_AFTER_S = 30.0


class Supervisor:
    """The parent process of `--watch`: it has the child, and passes signals on to it.

    A child that ends by itself (its code does not import, say) is started again at the next change.
    A signal ends the child and with it the supervisor, which then returns the child's exit code.
    """

    def __init__(self, command: Sequence[str], directory: Path, *, stop_within_s: float) -> None:
        self._command = command
        self._directory = directory.resolve()
        self._killed_after_s = stop_within_s + _KILLED_AFTER_S
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe, self._held = os.pipe()  # the operating system closes them with this process

    def run(self) -> int:
        previous = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            self._start()
            for changes in self._changes():
                logger.info("changed: %s; restarting", ", ".join(sorted(changes)))
                self._end()
                if not self._stopping.is_set():
                    self._start()
            return self._end()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _changes(self) -> Iterator[set[str]]:
        found = watchfiles.watch(
            self._directory,
            watch_filter=watchfiles.PythonFilter(),
            stop_event=self._stopping,
            rust_timeout=_LOOK_EVERY_MS,
            raise_interrupt=False,
        )
        for changes in found:
            yield {str(Path(path).relative_to(self._directory)) for _, path in changes}

    def _start(self) -> None:
        # A group of its own: Ctrl-C in a terminal reaches the child once, passed on by us.
        self._child = subprocess.Popen(
            self._command,
            start_new_session=True,
            pass_fds=(self._pipe,),
            env={**os.environ, _PIPE_VARIABLE: str(self._pipe)},
        )

    def _end(self) -> int:
        """Have the child end, by force where it must be, and return its exit code."""
        assert self._child is not None
        if self._child.poll() is None and not self._stopping.is_set():
            self._child.terminate()
        try:
            return self._child.wait(self._killed_after_s)
        except subprocess.TimeoutExpired:
            logger.warning("the worker did not stop within %g s; killed", self._killed_after_s)
            self._child.kill()
            return self._child.wait()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


def end_with_supervisor() -> None:
    """In a worker that a Supervisor started: stop as on SIGTERM once the supervisor is gone."""
    pipe = os.environ.pop(_PIPE_VARIABLE, "")
    if not pipe:
        return

    def wait() -> None:
        os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="worker-runtime-supervisor", daemon=True).start()
