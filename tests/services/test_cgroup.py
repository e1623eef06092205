"""The limits and use of a container, of either version of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cgroup_files import GIB, write, write_v2
from worker_runtime.services.cgroup import CgroupV1, CgroupV2, find_cgroup


def test_version_2_inside_a_container(tmp_path: Path) -> None:
    write_v2(tmp_path)
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
    write_v2(tmp_path, "/pods/worker")
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
    write_v2(tmp_path, path)
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
    write_v2(tmp_path)
    write(tmp_path / "sys/fs/cgroup", {"cpu.max": "max 100000", "memory.max": "max"})
    cgroup = find_cgroup(tmp_path)
    assert cgroup is not None
    assert (cgroup.cpu_limit_cores(), cgroup.memory_limit_bytes()) == (None, None)
    assert (cgroup.cpu_used_s(), cgroup.memory_used_bytes()) == (None, None)
    write(tmp_path / "sys/fs/cgroup", {"cpu.max": "lots", "memory.max": "lots"})
    assert (cgroup.cpu_limit_cores(), cgroup.memory_limit_bytes()) == (None, None)
