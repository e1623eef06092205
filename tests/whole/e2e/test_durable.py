"""A worker with a store on disk: what it accepted survives its stop, its crash and its machine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.support.helpers import ROOT, ServerProcess, eventually, start_server_process

TARGET = "tests.whole.e2e.served_tasks"
JOBS = 40


@pytest.fixture
def store(tmp_path: Path) -> dict[str, str]:
    return {"WORKER_STORE": f"sqlite:///{tmp_path}/jobs.db", "MAX_CONCURRENT": "2"}


def done(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def accept(server: ServerProcess, path: Path, count: int = JOBS) -> set[str]:
    """Have `count` jobs accepted, and give their ids."""
    body = {"task": "record", "args": [str(path), 0.1]}
    async with aiohttp.ClientSession() as http:

        async def post() -> str:
            async with http.post(f"{server.url}/v1/jobs", json=body) as answer:
                assert answer.status == 202
                job_id: str = (await answer.json())["id"]
                return job_id

        return set(await asyncio.gather(*(post() for _ in range(count))))


async def test_a_stop_keeps_what_waits_and_the_next_worker_runs_it(
    tmp_path: Path, store: dict[str, str]
) -> None:
    path = tmp_path / "done"
    async with start_server_process(TARGET, env=store) as server:
        accepted = await accept(server, path)
        assert await server.stop() == 0
        first = done(path)
        assert len(first) < JOBS  # with a store, waiting jobs do not hold up the end
    async with start_server_process(TARGET, env=store) as server:
        await eventually(lambda: len(done(path)) >= JOBS)
        assert await server.stop() == 0
    assert Counter(done(path)) == Counter(accepted)


async def test_a_kill_loses_nothing_that_was_accepted(
    tmp_path: Path, store: dict[str, str]
) -> None:
    path = tmp_path / "done"
    async with start_server_process(TARGET, env=store) as server:
        accepted = await accept(server, path)
        await eventually(lambda: len(done(path)) >= 5)
        server.signal(signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL
    async with start_server_process(TARGET, env=store) as server:
        await eventually(lambda: accepted <= set(done(path)))
        assert await server.stop() == 0
    ran = Counter(done(path))
    assert set(ran) == accepted
    assert sum(ran.values()) - JOBS <= 2  # only what was running may have run twice


async def test_burst_runs_what_an_earlier_worker_left(
    tmp_path: Path, store: dict[str, str]
) -> None:
    path = tmp_path / "done"
    async with start_server_process(TARGET, env=store) as server:
        accepted = await accept(server, path)
        assert await server.stop() == 0
    burst = subprocess.run(
        [sys.executable, "-m", "worker_runtime", "run", TARGET, "--burst"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **store},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert burst.returncode == 0, burst.stderr
    assert Counter(done(path)) == Counter(accepted)


def refused(store: str) -> str:
    """The line with which a second worker on the store is refused."""
    second = subprocess.run(
        [sys.executable, "-m", "worker_runtime", "run", TARGET, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WORKER_STORE": store},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert second.returncode == 2, second.stderr
    assert "Traceback" not in second.stderr
    line = second.stderr.splitlines()[-1]
    assert line.startswith("worker-runtime: store: ")
    return line


async def test_a_store_in_use_is_refused_with_one_line(store: dict[str, str]) -> None:
    async with start_server_process(TARGET, env=store) as server:
        assert f"is in use by process {server.process.pid};" in refused(store["WORKER_STORE"])
        assert await server.stop() == 0


async def test_a_store_in_use_is_refused_under_another_name(
    tmp_path: Path, store: dict[str, str]
) -> None:
    """B3: `ln jobs.db b.db`, a worker on each. Both acknowledged, and the file was damaged."""
    path = tmp_path / "done"
    async with start_server_process(TARGET, env=store) as server:
        os.link(tmp_path / "jobs.db", tmp_path / "b.db")
        accepted = await accept(server, path, 4)
        words = f"is in use by process {server.process.pid}, under another name"
        assert words in refused(f"sqlite:///{tmp_path}/b.db")
        await eventually(lambda: len(done(path)) >= 4)
        assert await server.stop() == 0
    assert Counter(done(path)) == Counter(accepted)


async def test_a_lock_that_is_removed_lets_no_second_worker_in(
    tmp_path: Path, store: dict[str, str]
) -> None:
    """B4: the same job ran in both at a time."""
    path = tmp_path / "done"
    async with start_server_process(TARGET, env=store) as server:
        accepted = await accept(server, path, 20)
        (tmp_path / "jobs.db.lock").unlink()
        assert f"is in use by process {server.process.pid}" in refused(store["WORKER_STORE"])
        await eventually(lambda: "jobs.db.lock was deleted or replaced" in server.log)
        await eventually(lambda: len(done(path)) >= 20)
        assert f"is in use by process {server.process.pid};" in refused(store["WORKER_STORE"])
        assert await server.stop() == 0
    assert Counter(done(path)) == Counter(accepted)
