"""The native dialect: unique jobs and jobs after others, attempts, dead letters, cron."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.fleet_worker import Worker, serving
from worker_runtime import Limit, cron, task

gate = asyncio.Event()


@task(per_key=Limit(concurrency=1))
async def wait() -> str:
    await gate.wait()
    return "waited"


@task
async def fail(n: int = 0) -> None:
    raise ValueError(f"no luck {n}")


@cron("0 3 * * *", tz="Europe/Berlin")
@task
async def nightly() -> None: ...


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    gate.clear()
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with serving([wait, fail, nightly], store=url) as served:
        yield served
        gate.set()


async def fail_some(worker: Worker, count: int) -> list[str]:
    ids = []
    for n in range(count):
        done = await worker.post("/v1/jobs?wait_s=5", {"task": "fail", "args": [n]})
        assert done.json["state"] == "failed"
        ids.append(done.json["id"])
    return ids
