"""`worker-runtime stats`, as a process, against a worker whose disk is full."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.fleet_worker import serving
from tests.support.helpers import ROOT, eventually, free_port
from tests.support.sqlite_stores import Faults, make_store
from worker_runtime import task


class Done(NamedTuple):
    code: int
    out: str
    error: str


async def stats(*arguments: str, **environment: str) -> Done:
    def run() -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "worker_runtime", "stats", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=50,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return await asyncio.to_thread(run)


async def test_a_store_that_takes_nothing_is_seen(tmp_path: Path) -> None:
    gate, faults = asyncio.Event(), Faults()

    @task
    async def hold() -> None:
        await gate.wait()

    store = make_store(tmp_path, connect=faults.connect)
    async with serving(hold, kept_in=store, token="secret") as worker:
        job = await worker.runtime.enqueue(hold)
        await eventually(lambda: job.state == "running")
        faults.error = sqlite3.SQLITE_FULL
        gate.set()
        await eventually(lambda: worker.runtime.statistics().store.unavailable)

        shown = await stats("--url", worker.url, WORKER_TOKEN="secret")
        assert (shown.code, shown.error) == (0, "")
        facts = dict(line.split(maxsplit=1) for line in shown.out.splitlines() if "." in line)
        assert facts["store.unavailable"].strip() == "the disk of the store is full"
        assert facts["store.results_held_back"].strip() == "1"
        assert "store.leases_held" not in facts
        assert [word in shown.out for word in ("default", "loop", "thread")] == [True] * 3

        document = json.loads(
            (await stats("--url", worker.url, "--json", WORKER_TOKEN="secret")).out
        )
        assert document["store"]["unavailable"] == "the disk of the store is full"
        assert document["queues"][0]["name"] == "default"

        refused = await stats("--url", worker.url, WORKER_TOKEN="")
        assert (refused.code, refused.out) == (1, "")
        assert "token" in refused.error
        faults.error = None
        await job.wait(timeout_s=5)


async def test_no_worker_is_said_in_a_line() -> None:
    done = await stats("--url", f"http://127.0.0.1:{free_port()}")
    assert (done.code, done.out) == (3, "")
    assert done.error.startswith("worker-runtime: no worker answers at ")
    assert done.error.count("\n") == 1
