"""Real arq beside us on one Redis: its clients, its workers, and both kinds of worker at once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.arq_env import VERSIONS, ask, start_arq_worker, start_our_worker
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime import JobFailed, Runtime, State, task
from worker_runtime.arq import RedisSettings, create_pool

pytestmark = pytest.mark.parametrize("version", VERSIONS)

EXPECTED = {
    "add": 3,
    "info": ["add", [1], {"b": 2}, 1, True],
    "status": "complete",
    "broken": "'gone'",
    "again": 3,
    "abort": True,
    "deferred": "deferred",
    "abort_deferred": True,
    "same": [True, False],
    "third": True,
    "results": 6,
}


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_arq_client_works_with_our_worker(
    server: RedisServer,
    version: str,
    processes: list[subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    worker = start_our_worker(version, server.port, log=log)
    processes.append(worker)
    assert ask(version, server.port, "probe") == EXPECTED
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0
    text = log.read_text()
    assert "Starting worker for 7 functions: add, broken" in text
    assert "shutdown on SIGTERM ◆ " in text
    with server.client() as client:
        assert client.get("arq:queue:health-check") is None


@pytest.mark.parametrize("start", [start_arq_worker, start_our_worker])
async def test_our_client_works_with_either_worker(
    server: RedisServer,
    version: str,
    processes: list[subprocess.Popen[bytes]],
    start: Callable[[str, int], subprocess.Popen[bytes]],
) -> None:
    processes.append(start(version, server.port))
    pool = await create_pool(RedisSettings(port=server.port))
    job = await pool.enqueue_job("add", 40, b=2)
    assert job is not None
    assert await job.result(timeout=30) == 42
    job = await pool.enqueue_job("broken")
    assert job is not None
    with pytest.raises(KeyError, match="gone"):
        await job.result(timeout=30)
    await pool.aclose()


async def test_a_runtime_enqueues_to_a_real_arq_worker(
    server: RedisServer, version: str, processes: list[subprocess.Popen[bytes]]
) -> None:
    @task
    async def add(a: int, b: int = 1) -> int:
        raise AssertionError("this process only enqueues")

    @task
    async def broken() -> None:
        raise AssertionError("this process only enqueues")

    async with Runtime([add, broken], store=server.url) as runtime:
        runtime.pause("default")
        processes.append(start_arq_worker(version, server.port))
        job = await runtime.enqueue(add, 1, b=2)
        assert await job.result(timeout_s=30) == 3
        failing = await runtime.enqueue(broken)
        with pytest.raises(JobFailed, match="KeyError"):
            await failing.result(timeout_s=30)
        found = await runtime.find(failing.id)
        assert found.state is State.FAILED


async def test_both_kinds_of_worker_share_a_queue(
    server: RedisServer, version: str, processes: list[subprocess.Popen[bytes]]
) -> None:
    processes.append(start_arq_worker(version, server.port))
    processes.append(start_our_worker(version, server.port))
    with server.client() as client:

        def started() -> bool:
            return len(client.execute_command("CLIENT", "LIST").splitlines()) >= 6

        await eventually(started, 20)
        ids = ask(version, server.port, "enqueue", "tally", 400)
        await eventually(lambda: client.zcard("arq:queue") == 0, 40)
        await eventually(lambda: len(client.keys("arq:result:*")) == 400, 20)
        runs = [client.lrange(f"ran:{job_id}", 0, -1) for job_id in ids]
        assert [len(run) for run in runs] == [1] * 400
        assert client.llen("overlaps") == 0
        assert len({run[0] for run in runs}) == 2, "one of the workers did nothing"
