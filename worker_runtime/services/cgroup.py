"""The container's own limits and use: Linux control groups, version 1 and 2.

File names and units: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

# Version 1 writes "no limit" as the largest number of pages that fits; anything near it is none.
_UNLIMITED_BYTES = 1 << 60


class Cgroup(Protocol):
    """What one process's control group allows and uses. None: no limit, or not to be told."""

    def cpu_limit_cores(self) -> float | None: ...
    def cpu_used_s(self) -> float | None:
        """CPU seconds that the whole group has used since it was made."""
        ...

    def memory_limit_bytes(self) -> int | None: ...
    def memory_used_bytes(self) -> int | None:
        """Without the file cache that the kernel can take back at any time."""
        ...


def find_cgroup(root: Path = Path("/")) -> Cgroup | None:
    """The control group of this process; None where there are none. `root` stands for `/`."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {
        controllers: path
        for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2)
    }
    mount = root / "sys/fs/cgroup"
    if (mount / "cgroup.controllers").exists():
        return CgroupV2(_existing(mount, paths.get("", "/")))
    memory = _controller(mount, paths, "memory")
    cpu = _controller(mount, paths, "cpu")
    account = _controller(mount, paths, "cpuacct")
    return CgroupV1(memory, cpu, account) if memory or cpu or account else None


class CgroupV2:
    """The unified hierarchy. A limit of any ancestor holds too, so the tightest one counts."""

    def __init__(self, chain: list[Path]) -> None:
        self._chain = chain

    def cpu_limit_cores(self) -> float | None:
        limits: list[float] = []
        for directory in self._chain:
            quota, _, period = (_text(directory / "cpu.max") or "max").partition(" ")
            if quota.isdigit() and period.isdigit() and int(period) > 0:
                limits.append(int(quota) / int(period))
        return min(limits, default=None)

    def cpu_used_s(self) -> float | None:
        used_us = _table(self._chain[0] / "cpu.stat").get("usage_usec")
        return None if used_us is None else used_us / 1e6

    def memory_limit_bytes(self) -> int | None:
        limits = (_number(directory / "memory.max") for directory in self._chain)
        return min((limit for limit in limits if limit is not None), default=None)

    def memory_used_bytes(self) -> int | None:
        return _without_cache(
            _number(self._chain[0] / "memory.current"),
            _table(self._chain[0] / "memory.stat").get("inactive_file"),
        )


class CgroupV1:
    """One hierarchy for each controller."""

    def __init__(self, memory: list[Path], cpu: list[Path], account: list[Path]) -> None:
        self._memory = memory
        self._cpu = cpu
        self._account = account

    def cpu_limit_cores(self) -> float | None:
        limits: list[float] = []
        for directory in self._cpu:
            quota = _number(directory / "cpu.cfs_quota_us")
            period = _number(directory / "cpu.cfs_period_us")
            if quota is not None and quota > 0 and period:
                limits.append(quota / period)
        return min(limits, default=None)

    def cpu_used_s(self) -> float | None:
        used_ns = _number(self._account[0] / "cpuacct.usage") if self._account else None
        return None if used_ns is None else used_ns / 1e9

    def memory_limit_bytes(self) -> int | None:
        limits = (_number(directory / "memory.limit_in_bytes") for directory in self._memory)
        real = (limit for limit in limits if limit is not None and limit < _UNLIMITED_BYTES)
        return min(real, default=None)

    def memory_used_bytes(self) -> int | None:
        if not self._memory:
            return None
        return _without_cache(
            _number(self._memory[0] / "memory.usage_in_bytes"),
            _table(self._memory[0] / "memory.stat").get("total_inactive_file"),
        )


def _controller(mount: Path, paths: dict[str, str], name: str) -> list[Path]:
    """The group's directory for a version 1 controller, and its ancestors'."""
    for controllers, path in paths.items():
        if name in controllers.split(","):
            for directory in (name, controllers):  # mounted alone, or as `cpu,cpuacct`
                if (mount / directory).is_dir():
                    return _existing(mount / directory, path)
    return []


def _existing(mount: Path, path: str) -> list[Path]:
    """The directory of `path` below `mount` and its ancestors up to `mount`. Inside a container the
    path may be the host's, of which only the mount itself can be seen."""
    directory = mount / path.lstrip("/")
    if ".." in directory.parts or not directory.is_dir():
        directory = mount
    return list(_up_to(directory, mount))


def _up_to(directory: Path, mount: Path) -> Iterator[Path]:
    while directory != mount:
        yield directory
        directory = directory.parent
    yield mount


def _without_cache(used: int | None, cache: int | None) -> int | None:
    return None if used is None else max(0, used - (cache or 0))


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    """The file's integer; None where it says `max` or is not there."""
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in (_text(path) or "").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
