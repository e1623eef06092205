"""Waiting for conditions without sleeping blindly, and real worker processes on loopback."""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import aiohttp

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent
POLL_S = 0.01
# How long a condition may take on a machine that does much else. Waiting less saves nothing: a
# condition that comes is seen when it comes.
PATIENCE_S = 20.0


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T | Literal[False] | None]],
    timeout_s: float = PATIENCE_S,
    *,
    what: str = "",
) -> T: ...
@overload
async def eventually(
    predicate: Callable[[], T | Literal[False] | None],
    timeout_s: float = PATIENCE_S,
    *,
    what: str = "",
) -> T: ...
async def eventually(
    predicate: Callable[[], Any], timeout_s: float = PATIENCE_S, *, what: str = ""
) -> Any:
    """The first truthy value of `predicate`, asked again until then.

    Fails the test after `timeout_s` seconds, with the last value seen. `predicate` may be async.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__name__", repr(predicate))
            raise AssertionError(f"{name}: still {value!r} after {timeout_s} s")
        await asyncio.sleep(POLL_S)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listened on a moment ago.

    Below the ports that the kernel gives out: one of those may be taken by anybody's connection
    until it is listened on, even by the very one that asks whether somebody listens there.
    """
    while True:
        port = secrets.randbelow(32_000 - 10_000) + 10_000
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port


def run_program(directory: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a document in `directory`; a warning ends it."""
    program = directory / "program.py"
    program.write_text(source)
    return subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )


class ServerProcess:
    """A worker in a process of its own. `url` has no trailing slash."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log_path = log_path
        self._final_log = ""

    @property
    def log(self) -> str:
        """Everything the process has written to stdout and stderr so far; also after the end."""
        if not self._log_path.exists():
            return self._final_log
        return self._log_path.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code, once the process has ended. Fails the test after `timeout_s` seconds."""
        await eventually(
            lambda: self.process.poll() is not None,
            timeout_s,
            what=f"the end of the worker, which logged\n{self.log}",
        )
        return self.process.returncode

    async def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return await self.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill what is left, children included, and keep the log."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._final_log = self.log


@asynccontextmanager
async def start_server_process(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    port: int | None = None,
    ready_within_s: float = 30.0,
) -> AsyncIterator[ServerProcess]:
    """`python -m worker_runtime run ARGUMENTS` on a free port of 127.0.0.1, ready to serve.

    `env` is added to the test's own environment; modules in `cwd` can be named as TARGET. What is
    still running at the end is killed, children included. A process that ends before it is ready
    fails the test with what it logged.
    """
    port = free_port() if port is None else port
    command = [sys.executable, "-m", "worker_runtime", "run", *arguments]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join(filter(None, [str(cwd or ""), str(ROOT), os.getenv("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})}
    with tempfile.TemporaryDirectory(prefix="worker-runtime-") as directory:
        log_path = Path(directory, "log")
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment,
                start_new_session=True,  # a process group of its own, so that `end` finds it all
            )
        server = ServerProcess(process, port, log_path)
        try:
            await _wait_ready(server, ready_within_s)
            yield server
        finally:
            server.end()


async def _wait_ready(server: ServerProcess, timeout_s: float) -> None:
    async with aiohttp.ClientSession() as session:

        async def ready() -> bool:
            if server.exit_code is not None:
                raise AssertionError(f"the worker ended ({server.exit_code}):\n{server.log}")
            try:
                async with session.get(f"{server.url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(ready, timeout_s, what="GET /readyz")
