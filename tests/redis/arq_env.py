"""Real arq, each version in a virtual environment of its own under `.cache/`, made on demand."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SIDE = Path(__file__).resolve().parent / "arq_side"
NEWEST = "0.28.0"
# The ordinary suite runs beside one version; `tests/external/run_arq_suite.py` beside all.
VERSIONS = ("0.25.0", "0.26.3", NEWEST) if os.environ.get("ALL_ARQ_VERSIONS") else (NEWEST,)
_OURS = ("msgspec", "aiohttp", "uvloop", "prometheus-client", "psutil", "rich", "cronsim", "click",
         "watchfiles")  # fmt: skip


@functools.cache
def arq_python(version: str) -> str:
    """The interpreter of an environment with that arq and what our package needs. Skips the test
    where it cannot be made."""
    directory = ROOT / ".cache" / f"arq-{version}"
    python = directory / "bin" / "python"
    if not python.exists():
        try:
            _run(sys.executable, "-m", "venv", str(directory))
            _run(str(python), "-m", "pip", "-q", "install", f"arq=={version}", "redis<6", *_OURS)
        except subprocess.CalledProcessError as error:
            python.unlink(missing_ok=True)
            pytest.skip(f"arq {version} cannot be installed here: {error.stderr[-300:]!r}")
    return str(python)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def environment(port: int) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(SIDE)])
    return {**os.environ, "PYTHONPATH": path, "ARQ_SIDE_PORT": str(port)}


def ask(version: str, port: int, verb: str, *arguments: Any) -> Any:
    """Run one verb of `arq_side/client.py` with real arq and return what it prints as JSON."""
    done = subprocess.run(
        [arq_python(version), str(SIDE / "client.py"), verb, *map(str, arguments)],
        env=environment(port),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return msgspec.json.decode(done.stdout)


def start_arq_worker(
    version: str, port: int, settings: str = "WorkerSettings", log: Path | None = None
) -> subprocess.Popen[bytes]:
    """A real arq worker on the settings in `arq_side/settings.py`."""
    return _start([arq_python(version), "-m", "arq", f"settings.{settings}"], port, log)


def start_our_worker(
    version: str, port: int, settings: str = "WorkerSettings", log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Our worker on the same settings module, which imports that arq."""
    command = [arq_python(version), "-m", "worker_runtime", "run", f"settings.{settings}"]
    return _start(command, port, log)


def _start(command: list[str], port: int, log: Path | None) -> subprocess.Popen[bytes]:
    # Into a file: a pipe that nobody reads fills up, and then blocks the worker that logs.
    target = subprocess.DEVNULL if log is None else log.open("wb")
    try:
        return subprocess.Popen(command, env=environment(port), stderr=target)
    finally:
        if not isinstance(target, int):
            target.close()
