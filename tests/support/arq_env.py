"""Real arq, each version in a virtual environment of its own under `.cache/`, made on demand."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SIDE = Path(__file__).resolve().parent / "arq_side"
NEWEST = "0.28.0"
# The ordinary suite runs beside one version; `tests/whole/external/run_arq_suite.py` beside all.
VERSIONS = ("0.25.0", "0.26.3", NEWEST) if os.environ.get("ALL_ARQ_VERSIONS") else (NEWEST,)
_OURS = ("msgspec", "aiohttp", "uvloop", "prometheus-client", "psutil", "rich", "cronsim", "click",
         "watchfiles")  # fmt: skip


def arq_python(version: str) -> str:
    """The interpreter of an environment with that arq and what our package needs. Skips the test
    where it cannot be made."""
    problem = make_environment(version)
    if problem is not None:
        pytest.skip(f"arq {version} cannot be installed here: {problem}")
    return str(_python(version))


def _python(version: str) -> Path:
    return ROOT / ".cache" / f"arq-{version}" / "bin" / "python"


@functools.cache
def make_environment(version: str) -> str | None:
    """Make it unless it is there, whole; what went wrong, if anything.

    Whichever version of Python comes first makes it for all; the others wait for that.
    """
    directory = ROOT / ".cache" / f"arq-{version}"
    whole = directory / "whole"  # its last file: one that was begun and not finished has none
    directory.parent.mkdir(exist_ok=True)
    with Path(f"{directory}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists() and _python(version).exists():
            return None
        shutil.rmtree(directory, ignore_errors=True)
        pip = [str(_python(version)), "-m", "pip", "-q", "--disable-pip-version-check"]
        try:
            _run(sys.executable, "-m", "venv", str(directory))
            _run(*pip, "install", f"arq=={version}", "redis<6", *_OURS)
        except subprocess.CalledProcessError as error:
            return repr(error.stderr[-300:] or error.stdout[-300:])
        except subprocess.TimeoutExpired as error:
            return str(error)
        whole.touch()
    return None


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
