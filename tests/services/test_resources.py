"""CPU and memory of containers and machines, and refusing jobs by them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support.fleet_worker import serving
from tests.support.helpers import eventually
from worker_runtime import Overloaded, QueueFull, Runtime, Settings, task
from worker_runtime.services.cgroup import CgroupV1, CgroupV2, find_cgroup
from worker_runtime.services.forecast import Forecast
from worker_runtime.services.overload import Gate, OverloadControl
from worker_runtime.services.resources import Resources, ResourceSample, gpu

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def v2(root: Path, path: str = "/") -> None:
    write(
        root,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        },
    )


# Control groups


def test_version_2_inside_a_container(tmp_path: Path) -> None:
    v2(tmp_path)
    write(
        tmp_path / "sys/fs/cgroup",
        {
            "cpu.max": "150000 100000\n",
            "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
            "memory.max": f"{2 * GIB}\n",
            "memory.current": f"{GIB}\n",
            "memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )
    cgroup = find_cgroup(tmp_path)
    assert isinstance(cgroup, CgroupV2)
    assert cgroup.cpu_limit_cores() == 1.5
    assert cgroup.cpu_used_s() == 2.5
    assert cgroup.memory_limit_bytes() == 2 * GIB
    assert cgroup.memory_used_bytes() == GIB // 2


def test_version_2_the_tightest_ancestor_counts(tmp_path: Path) -> None:
    v2(tmp_path, "/pods/worker")
    write(
        tmp_path / "sys/fs/cgroup/pods",
        {
            "cpu.max": "50000 100000",
            "memory.max": f"{GIB}",
            "worker/cpu.max": "max 100000",
            "worker/memory.max": "max",
            "worker/memory.current": "1000",
        },
    )
    cgroup = find_cgroup(tmp_path)
    assert cgroup is not None
    assert cgroup.cpu_limit_cores() == 0.5
    assert cgroup.memory_limit_bytes() == GIB
    assert cgroup.memory_used_bytes() == 1000


@pytest.mark.parametrize("path", ["/../../outside", "/docker/0123"])
def test_version_2_a_path_of_the_host_is_the_mount(tmp_path: Path, path: str) -> None:
    v2(tmp_path, path)
    write(tmp_path / "sys/fs/cgroup", {"memory.max": f"{GIB}"})
    cgroup = find_cgroup(tmp_path)
    assert cgroup is not None
    assert cgroup.memory_limit_bytes() == GIB


def test_version_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "3000000000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": f"{GIB}",
            "sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes": "5000",
            "sys/fs/cgroup/memory/docker/1/memory.stat": "total_inactive_file 2000\n",
        },
    )
    cgroup = find_cgroup(tmp_path)
    assert isinstance(cgroup, CgroupV1)
    assert cgroup.cpu_limit_cores() == 2.0
    assert cgroup.cpu_used_s() == 3.0
    assert cgroup.memory_limit_bytes() == GIB
    assert cgroup.memory_used_bytes() == 3000


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "garbage\n"},
        {"proc/self/cgroup": "0::/\n"},
    ],
)
def test_no_control_group(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    assert find_cgroup(tmp_path) is None


def test_limits_that_are_none_or_unreadable(tmp_path: Path) -> None:
    v2(tmp_path)
    write(tmp_path / "sys/fs/cgroup", {"cpu.max": "max 100000", "memory.max": "max"})
    cgroup = find_cgroup(tmp_path)
    assert cgroup is not None
    assert (cgroup.cpu_limit_cores(), cgroup.memory_limit_bytes()) == (None, None)
    assert (cgroup.cpu_used_s(), cgroup.memory_used_bytes()) == (None, None)
    write(tmp_path / "sys/fs/cgroup", {"cpu.max": "lots", "memory.max": "lots"})
    assert (cgroup.cpu_limit_cores(), cgroup.memory_limit_bytes()) == (None, None)


# Samples


def test_percentages_are_of_the_containers_limits(tmp_path: Path) -> None:
    v2(tmp_path)
    files = {
        "cpu.max": "50000 100000",
        "cpu.stat": "usage_usec 0",
        "memory.max": "1000000",
        "memory.current": "250000",
    }
    write(tmp_path / "sys/fs/cgroup", files)
    resources = Resources(interval_s=60, root=tmp_path)
    first = resources.latest
    assert (first.cpu_percent, first.memory_percent) == (0.0, 25.0)
    assert (first.cpu_cores, first.memory_total_bytes) == (1, 1_000_000)
    write(tmp_path / "sys/fs/cgroup", {**files, "cpu.stat": "usage_usec 3600000000"})
    second = resources.sample()
    assert second.cpu_percent == 100.0
    assert resources.latest is second


def test_the_machine_counts_where_there_is_no_limit(tmp_path: Path) -> None:
    sample = Resources(interval_s=60, root=tmp_path).latest
    assert sample.memory_total_bytes == psutil.virtual_memory().total
    assert sample.cpu_cores == psutil.cpu_count()
    assert 0 < sample.memory_percent < 100
    assert sample.process_memory_bytes > 1 << 20


async def test_samples_are_taken_in_the_background(tmp_path: Path) -> None:
    resources = Resources(interval_s=0.01, root=tmp_path)
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
    resources = Resources(interval_s=3600, root=tmp_path)
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


# Admission


def test_a_gate_opens_again_only_well_below_its_limit() -> None:
    gate = Gate("CPU", 90.0)
    states = []
    for value in (50, 90, 91, 89, 86, 85, 90, 95):
        gate.update(value)
        states.append(gate.is_closed)
    assert states == [False, False, True, True, True, False, False, True]


def test_a_short_look_at_the_cpu_does_not_close_the_door_but_opens_it(tmp_path: Path) -> None:
    control = OverloadControl(
        Forecast([]), max_cpu_percent=90, max_memory_percent=None, sampled_every_s=30
    )
    sample = Resources(interval_s=30, root=tmp_path).latest
    seen = []
    for cpu_percent, cpu_over_s in ((99, 0.5), (50, 30), (99, 30), (88, 1), (50, 1), (99, 1)):
        at = msgspec.structs.replace(sample, cpu_percent=cpu_percent, cpu_over_s=cpu_over_s)
        seen.append(control.observe(at))
    assert seen == [False, False, True, True, False, False]


go_on = threading.Event()


@task(run_in="thread")
def wait_for_test() -> None:
    assert go_on.wait(10)


@task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.fixture(autouse=True)
def _waiting() -> Iterator[None]:
    go_on.clear()
    yield
    go_on.set()


async def test_above_a_limit_new_jobs_are_refused_at_once_and_accepted_again() -> None:
    async with serving(nap, max_memory_percent=0.001, health_check_interval_s=0.02) as worker:
        runtime = worker.runtime
        body = {"task": "nap", "args": [0]}

        async def refused() -> bool:
            return (await worker.ask("POST", "/v1/jobs", body)).status == 503

        await eventually(refused)
        with pytest.raises(Overloaded, match=r"memory is at .* %, above 0.001 %") as error:
            await runtime.enqueue(nap, 0)
        assert (error.value.retry_after_s, error.value.position) == (1.0, 1)
        answer = await worker.ask("POST", "/v1/jobs", body)
        assert answer.headers["Retry-After"] == "1"
        assert answer.document["code"] == "overloaded"
        assert (answer.document["position"], answer.document["predicted_wait_s"]) == (1, 0.0)
        submitted = {"payload": {"function": "nap", "args": [0]}}
        assert (await worker.ask("POST", "/task/submit", submitted)).status == 503
        await runtime.parts.resources.stop()
        sample = runtime.parts.resources.latest
        runtime.parts.overload.observe(msgspec.structs.replace(sample, memory_percent=0.0))
        assert (await worker.ask("POST", "/v1/jobs", body)).status == 202


async def test_a_wait_longer_than_the_callers_deadline_is_refused() -> None:
    settings = Settings.from_environment({}, concurrency=1, queue_capacity=10)
    async with Runtime([nap, wait_for_test], settings=settings) as runtime:
        first = await runtime.enqueue(nap, 0.2)
        await first.wait(timeout_s=5)
        await runtime.enqueue(wait_for_test)
        for _ in range(4):
            await runtime.enqueue(nap, 0.2)
        hurried = runtime.options(expires_s=0.3)
        with pytest.raises(Overloaded, match="would wait") as refused:
            await hurried.enqueue(nap, 0.0)
        assert refused.value.position == 5
        assert (refused.value.predicted_wait_s or 0.0) >= 0.89  # 4 and a half naps
        assert refused.value.retry_after_s == 1.0
        patient = await runtime.options(expires_s=60).enqueue(nap, 0.0)
        go_on.set()
        await patient.wait(timeout_s=10)
        assert runtime.parts.table.get(patient.id) is not None


async def test_a_full_queue_tells_the_place_and_the_wait() -> None:
    settings = Settings.from_environment({}, concurrency=1, queue_capacity=2)
    async with Runtime([nap, wait_for_test], settings=settings) as runtime:
        await (await runtime.enqueue(nap, 0.1)).wait(timeout_s=5)
        await runtime.enqueue(wait_for_test)
        await runtime.enqueue(nap, 0.0)
        await runtime.enqueue(nap, 0.0)
        with pytest.raises(QueueFull) as refused:
            await runtime.enqueue(nap, 0.0)
        go_on.set()
        await runtime.join()
    assert refused.value.position == 3
    assert (refused.value.predicted_wait_s or 0.0) >= 0.24


async def test_before_a_job_has_ended_those_that_run_tell_how_long_they_take() -> None:
    settings = Settings.from_environment({}, concurrency=1, queue_capacity=1)
    async with Runtime([wait_for_test], settings=settings) as runtime:
        first = await runtime.enqueue(wait_for_test)
        await runtime.enqueue(wait_for_test)
        await eventually(lambda: time.time() > (first.job.started_at or math.inf) + 0.1)
        with pytest.raises(QueueFull) as refused:
            await runtime.enqueue(wait_for_test)
        go_on.set()
        await runtime.join()
    assert refused.value.position == 2
    assert (refused.value.predicted_wait_s or 0.0) > 0.1


async def test_nothing_is_measured_where_nothing_asks_for_it() -> None:
    async with Runtime([nap], settings=Settings.from_environment({})) as runtime:
        names = {other.get_name() for other in asyncio.all_tasks()}
        assert runtime.parts.overload.has_limits is False
    assert "resources" not in names
