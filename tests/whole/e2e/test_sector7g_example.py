"""The example with six queues: several settings classes in one process, events, a health page."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.support.helpers import ROOT, eventually
from tests.support.redis_server import RedisServer
from worker_runtime.arq import RedisSettings, create_pool
from worker_runtime.arq.settings import read_settings

QUEUES = ("inanimate_rod", "homer", "lenny", "carl", "charlie", "grimey")
TARGET = ",".join(f"examples.sector7g.queues.{name}.WorkerSettings" for name in QUEUES)


def _run(server: RedisServer, *options: str) -> list[str]:
    return [sys.executable, "-m", "worker_runtime", "run", TARGET, *options]


@pytest.fixture
def environment(server: RedisServer) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": server.url}


@pytest.fixture
def plant(
    server: RedisServer, environment: dict[str, str], tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(_run(server), env=environment, stderr=log)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("queue", "max_jobs", "job_timeout", "max_tries"),
    [
        ("inanimate_rod", 15, 300, 3),
        ("homer", 3, 600, 1),
        ("lenny", 15, 120, 3),
        ("carl", 15, 120, 3),
        ("charlie", 10, 120, 3),
        ("grimey", 1, 600, 1),
    ],
)
def test_the_queues_are_the_plants(
    queue: str, max_jobs: int, job_timeout: int, max_tries: int
) -> None:
    module = importlib.import_module(f"examples.sector7g.queues.{queue}")
    found = read_settings(module.WorkerSettings)
    assert found.queue_name == f"arq:queue:{queue}"
    assert (found.max_jobs, found.job_timeout, found.max_tries) == (
        max_jobs,
        job_timeout,
        max_tries,
    )


async def test_all_six_queues_in_one_process(
    server: RedisServer,
    environment: dict[str, str],
    plant: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    health_page: Any = importlib.import_module("examples.sector7g.health_page")
    monkeypatch.setattr(health_page, "REDIS_SETTINGS", RedisSettings(port=server.port))
    async with TestClient(TestServer(health_page.application())) as client:

        async def statuses() -> dict[str, Any]:
            answer = await client.get("/", headers={"Accept": "application/json"})
            return {one["queue"]: one for one in await answer.json()}

        async def all_healthy() -> bool:
            return {one["status"] for one in (await statuses()).values()} == {"healthy"}

        await eventually(all_healthy, 20)
        assert subprocess.run(_run(server, "--check"), env=environment, timeout=30).returncode == 0
        pool = await create_pool(RedisSettings(port=server.port))
        for queue, function in (
            ("inanimate_rod", "system_health_check"),
            ("inanimate_rod", "cleanup_temp_files"),
            ("lenny", "file_report_task"),
        ):
            job = await pool.enqueue_job(function, _queue_name=f"arq:queue:{queue}")
            assert job is not None
            result = await job.result(timeout=10)
            assert (result["status"], result["task"]) == ("completed", function)
        events: Any = await pool.xrange("aegis:events:worker")
        kinds = [fields[b"type"] for _, fields in events]
        assert kinds.count(b"worker.started") == 6
        assert kinds.count(b"job.started") == 3
        await pool.aclose()
        page = await (await client.get("/")).text()
        assert "<td>homer</td><td>healthy</td>" in page
        plant.send_signal(signal.SIGTERM)
        assert plant.wait(20) == 0
        assert {one["status"] for one in (await statuses()).values()} == {"offline"}
    assert subprocess.run(_run(server, "--check"), env=environment, timeout=30).returncode == 1
    assert "shutdown on" in (tmp_path / "log").read_text()


def test_burst_on_the_command_line(server: RedisServer, environment: dict[str, str]) -> None:
    done = subprocess.run(_run(server, "--burst"), env=environment, timeout=30)
    assert done.returncode == 0
