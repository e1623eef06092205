"""SIGTERM and SIGINT: nothing accepted is lost that had time to finish, and the end is on time."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.helpers import ServerProcess, eventually, start_server_process

TARGET = "tests.whole.e2e.served_tasks"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def body(task: str, *args: object) -> dict[str, Any]:
    return {"task": task, "args": args}


async def post(
    http: aiohttp.ClientSession, server: ServerProcess, task: str, *args: object, wait_s: float = 0
) -> tuple[int, dict[str, Any]]:
    query = f"?wait_s={wait_s}" if wait_s else ""
    async with http.post(f"{server.url}/v1/jobs{query}", json=body(task, *args)) as answer:
        return answer.status, await answer.json(content_type=None)


async def running_count(http: aiohttp.ClientSession, server: ServerProcess) -> int:
    async with http.get(f"{server.url}/v1/jobs?state=running") as answer:
        return len((await answer.json())["jobs"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_under_load_no_accepted_job_is_lost(
    tmp_path: Path, http: aiohttp.ClientSession, number: signal.Signals
) -> None:
    done = tmp_path / "done"
    accepted: list[str] = []
    refused: Counter[str] = Counter()

    async def client(server: ServerProcess) -> None:
        while True:
            try:
                status, job = await post(http, server, "record", str(done), 0.02)
            except aiohttp.ClientError:
                refused["not listening"] += 1
                return
            if status == 202:
                accepted.append(job["id"])
            else:
                refused[str(status)] += 1
                assert status == 503
                await asyncio.sleep(0.01)

    env = {"MAX_CONCURRENT": "4", "QUEUE_CAPACITY": "200"}
    async with start_server_process(TARGET, env=env) as server:
        clients = [asyncio.create_task(client(server)) for _ in range(8)]
        await eventually(lambda: len(accepted) >= 100)
        server.signal(number)
        assert await server.wait(30) == 0
        await asyncio.gather(*clients)
        assert re.search(r"stopping within 25 s: 4 jobs run, [1-9]\d* wait", server.log)
        assert "interrupted" not in server.log

    ran = done.read_text().split()
    assert len(ran) == len(set(ran))
    assert set(accepted) == set(ran)
    assert set(refused) <= {"503", "not listening"}


async def test_while_it_drains_it_says_so_and_answers_who_waits(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with start_server_process(TARGET) as server:
        release = tmp_path / "release"
        waiting = asyncio.create_task(post(http, server, "wait_for_file", str(release), wait_s=20))
        await eventually(lambda: running_count(http, server))
        server.signal(signal.SIGTERM)

        async def not_ready() -> bool:
            async with http.get(f"{server.url}/readyz") as answer:
                return answer.status == 503

        await eventually(not_ready)
        async with http.get(f"{server.url}/livez") as alive:
            assert alive.status == 200
        async with http.post(f"{server.url}/v1/jobs", json=body("process_id")) as refused:
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
        release.touch()
        status, job = await waiting
        assert (status, job["state"], job["result"]) == (200, "completed", job["id"])
        assert await server.wait() == 0


@pytest.mark.parametrize("task", ["stubborn", "hold_a_thread", "hold_a_foreign_thread"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_job_that_ignores_its_stop_does_not_keep_the_process(
    tmp_path: Path, http: aiohttp.ClientSession, task: str, loop: str
) -> None:
    env = {"WORKER_STOP_WITHIN": "0.2", "WORKER_CANCEL_GRACE": "0.2"}
    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError")
    async with start_server_process(TARGET, env=env, cwd=tmp_path) as server:
        args = [] if task == "stubborn" else [60]
        waiting = asyncio.create_task(post(http, server, task, *args, wait_s=60))
        await eventually(lambda: running_count(http, server))
        assert await server.stop() == 0
        status, job = await waiting
        assert (status, job["state"]) == (200, "cancelled")
        assert "1 running jobs were interrupted" in server.log
        assert ("uvloop is not installed" in server.log) == (loop == "asyncio")


async def test_a_blocked_event_loop_does_not_keep_the_process(http: aiohttp.ClientSession) -> None:
    env = {"WORKER_STOP_WITHIN": "0.1", "WORKER_CANCEL_GRACE": "0.1"}
    async with start_server_process(TARGET, env=env) as server:
        await post(http, server, "block_the_loop", 60)
        await eventually(lambda: "has been blocked" in server.log)
        assert "block_the_loop" in server.log
        assert await server.stop() == 1
        assert "something blocks the event loop" in server.log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGINT, 128 + 2)])
@pytest.mark.parametrize("task", ["stubborn", "block_the_loop"])
async def test_a_second_signal_ends_at_once(
    http: aiohttp.ClientSession, number: signal.Signals, code: int, task: str
) -> None:
    async with start_server_process(TARGET) as server:
        args = [] if task == "stubborn" else [60]
        await post(http, server, task, *args)
        if task == "stubborn":
            server.signal(number)
            await eventually(lambda: "stopping" in server.log)
        else:
            await eventually(lambda: "has been blocked" in server.log)
            server.signal(number)
        # Two signals sent back to back are one to the kernel, and to the worker: so send it on.
        while server.exit_code is None:
            await asyncio.sleep(0.1)
            server.signal(number)
        assert server.exit_code == code
        assert f"{number.name} again" in server.log


async def test_a_signal_that_arrives_twice_is_one_request(http: aiohttp.ClientSession) -> None:
    async with start_server_process(TARGET) as server:
        server.signal(signal.SIGTERM)  # as from a container to the process group,
        server.signal(signal.SIGINT)  # and as passed on by a parent
        assert await server.wait() == 0
        assert "again" not in server.log


async def test_jobs_that_are_not_due_in_time_do_not_delay_the_end(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with start_server_process(TARGET, env={"WORKER_STOP_WITHIN": "600"}) as server:
        job = {**body("record", str(tmp_path / "done"), 0), "delay_s": 3600}
        async with http.post(f"{server.url}/v1/jobs", json=job) as answer:
            assert answer.status == 202
        assert await server.stop() == 0  # far sooner than in the time that jobs would get
        assert "0 jobs run, 1 wait" in server.log
