"""CPU and memory of containers and machines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from tests.support.cgroup_files import write, write_v2
from tests.support.helpers import eventually
from worker_runtime.clock.source import SYSTEM
from worker_runtime.services.resources import Resources, ResourceSample, gpu


def test_percentages_are_of_the_containers_limits(tmp_path: Path) -> None:
    write_v2(tmp_path)
    files = {
        "cpu.max": "50000 100000",
        "cpu.stat": "usage_usec 0",
        "memory.max": "1000000",
        "memory.current": "250000",
    }
    write(tmp_path / "sys/fs/cgroup", files)
    resources = Resources(SYSTEM, interval_s=60, root=tmp_path)
    first = resources.latest
    assert (first.cpu_percent, first.memory_percent) == (0.0, 25.0)
    assert (first.cpu_cores, first.memory_total_bytes) == (1, 1_000_000)
    write(tmp_path / "sys/fs/cgroup", {**files, "cpu.stat": "usage_usec 3600000000"})
    second = resources.sample()
    assert second.cpu_percent == 100.0
    assert resources.latest is second


def test_the_machine_counts_where_there_is_no_limit(tmp_path: Path) -> None:
    sample = Resources(SYSTEM, interval_s=60, root=tmp_path).latest
    assert sample.memory_total_bytes == psutil.virtual_memory().total
    assert sample.cpu_cores == psutil.cpu_count()
    assert 0 < sample.memory_percent < 100
    assert sample.process_memory_bytes > 1 << 20


async def test_samples_are_taken_in_the_background(tmp_path: Path) -> None:
    resources = Resources(SYSTEM, interval_s=0.01, root=tmp_path)
    seen: list[float] = []

    def listen(sample: ResourceSample) -> bool:
        seen.append(sample.at)
        return False

    resources.listeners.append(listen)
    resources.start()
    resources.start()
    await eventually(lambda: len(seen) >= 3)
    await resources.stop()
    count = len(seen)
    await asyncio.sleep(0.05)
    assert len(seen) == count
    await resources.stop()


async def test_while_a_listener_wants_it_the_next_look_comes_soon(tmp_path: Path) -> None:
    resources = Resources(SYSTEM, interval_s=3600, root=tmp_path)
    spans: list[float] = []

    def listen(sample: ResourceSample) -> bool:
        spans.append(sample.cpu_over_s)
        return len(spans) < 3

    resources.listeners.append(listen)
    resources.start()
    await eventually(lambda: len(spans) >= 3, timeout_s=30)
    await resources.stop()
    assert all(span > 0 for span in spans)


def test_gpus_are_counted_by_their_devices(tmp_path: Path) -> None:
    write(tmp_path, {"nvidia0": "", "nvidia1": "", "nvidiactl": ""})
    assert gpu(tmp_path) == ("CUDA", 2)
