"""A disk that is really full: new jobs are refused, results wait, and it resumes by itself."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from worker_runtime import Runtime, Settings, StoreUnavailable, task
from worker_runtime.metrics import exposition

DISK = "size=8m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("mounts a small tmpfs, which is Linux's")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"needs root to mount a small tmpfs: {mount.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def store_figures(runtime: Runtime) -> dict[str, float]:
    """What a scrape shows of a store that cannot write."""
    shown = exposition(runtime).decode()
    found = {
        name: re.search(rf'^worker_runtime_store_{name}{{store="sqlite"}} (\S+)$', shown, re.M)
        for name in ("unavailable", "results_held_back")
    }
    return {name: float(match[1]) for name, match in found.items() if match}


async def test_a_full_disk_refuses_new_jobs_and_loses_nothing(small_disk: Path) -> None:
    gate = asyncio.Event()
    ended: list[int] = []

    @task
    async def hold(number: int, payload: str) -> str:
        await gate.wait()
        ended.append(number)
        return payload[:5000]

    url = f"sqlite:///{small_disk}/jobs.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 << 20))
    async with Runtime(
        [hold], store=url, concurrency=100, queue_capacity=10_000, settings=Settings()
    ) as runtime:
        accepted = []
        with pytest.raises(StoreUnavailable, match="disk of the store is full"):
            for number in range(2000):
                accepted.append(await runtime.enqueue(hold, number, "x" * 5000))
        assert len(accepted) > 10

        gate.set()  # the results need space that is not there
        await eventually(lambda: runtime.statistics().store.unavailable)
        assert "disk of the store is full" in (runtime.statistics().store.unavailable or "")
        held_back = runtime.statistics().store.results_held_back
        assert store_figures(runtime) == {"unavailable": 1, "results_held_back": held_back}
        assert held_back
        assert any(job.state == "running" for job in accepted)
        with pytest.raises(StoreUnavailable):
            await runtime.enqueue(hold, -1, "")

        ballast.unlink()
        results = [await job.result(timeout_s=20) for job in accepted]
        assert results == ["x" * 5000] * len(accepted)
        await eventually(lambda: runtime.statistics().store.unavailable is None)
        assert store_figures(runtime) == {"unavailable": 0, "results_held_back": 0}
        assert await (await runtime.enqueue(hold, -2, "y")).result(timeout_s=5) == "y"
    assert -1 not in ended
    assert len(ended) == len(set(ended)) == len(accepted) + 1

    async with Runtime([hold], store=url, settings=Settings()) as runtime:
        for job in accepted:
            assert (await runtime.find(job.id)).state == "completed"
