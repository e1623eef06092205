"""How much CPU and memory this process and its container use, measured in the background.

Nothing here is read inside a request: `latest` is the last sample.
"""

from __future__ import annotations

import asyncio
import logging
import math
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from worker_runtime.clock.source import Clock
from worker_runtime.services.cgroup import Cgroup, find_cgroup

logger = logging.getLogger("worker_runtime.resources")

# A rate needs two readings, and the first answer should not take a whole interval.
_FIRST_AFTER_S = 0.5
_SOON_S = 1.0


class ResourceSample(msgspec.Struct, frozen=True):
    """One measurement; `at` is Unix seconds.

    The percentages are of what this process may use: the container's limits where it has any,
    otherwise the machine. 0 until two readings have been taken. `cpu_over_s` is the time of which
    `cpu_percent` is the mean.
    """

    at: float
    cpu_percent: float
    cpu_over_s: float
    memory_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    cpu_cores: int
    process_cpu_percent: float
    process_memory_bytes: int


class Resources:
    """Samples every `interval_s` seconds while it is started, and tells `listeners`: one that
    answers True wants the next look soon."""

    def __init__(self, clock: Clock, *, interval_s: float, root: Path = Path("/")) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._root = root
        self._process = psutil.Process()
        self._task: asyncio.Task[None] | None = None
        self._meter = _Meter(find_cgroup(root), clock)
        self._cpu_read_at = self._clock.monotonic()
        self._is_urgent = False
        self.listeners: list[Callable[[ResourceSample], bool]] = []
        self.latest = self._sample()

    def start(self) -> None:
        """Begin to sample; starting twice is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_sampling(), name="resources")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    def sample(self) -> ResourceSample:
        """Measure now. Reads a few files of /proc and /sys, which do not block."""
        self.latest = self._sample()
        wishes = [listener(self.latest) for listener in self.listeners]
        self._is_urgent = any(wishes)
        return self.latest

    async def _keep_sampling(self) -> None:
        await asyncio.sleep(min(_FIRST_AFTER_S, self._interval_s))
        while True:
            try:
                self.sample()
            except Exception:  # a file that is gone for a moment must not end the watch
                logger.exception("CPU and memory could not be measured")
            await asyncio.sleep(min(_SOON_S if self._is_urgent else math.inf, self._interval_s))

    def _sample(self) -> ResourceSample:
        used, total = self._meter.memory()
        cores = self._meter.cores
        before, self._cpu_read_at = self._cpu_read_at, self._clock.monotonic()
        return ResourceSample(
            at=self._clock.wall(),
            cpu_percent=round(self._meter.cpu_percent(), 1),
            cpu_over_s=self._cpu_read_at - before,
            memory_percent=round(min(100.0, 100.0 * used / total), 1) if total else 0.0,
            memory_used_bytes=used,
            memory_total_bytes=total,
            cpu_cores=max(1, math.ceil(cores)),
            process_cpu_percent=round(self._process.cpu_percent() / cores, 1),
            process_memory_bytes=self._process.memory_info().rss,
        )


class _Meter:
    """Reads the container's figures, and the machine's where there are none."""

    def __init__(self, cgroup: Cgroup | None, clock: Clock) -> None:
        self._clock = clock
        machine_cores = float(psutil.cpu_count() or 1)
        limit = None if cgroup is None else cgroup.cpu_limit_cores()
        self.cores = min(machine_cores, limit) if limit else machine_cores
        self._cgroup = cgroup
        self._has_cpu_limit = limit is not None
        self._last: tuple[float, float] | None = None

    def cpu_percent(self) -> float:
        """Since the last call; 0 at the first."""
        used_s = self._cgroup.cpu_used_s() if self._cgroup and self._has_cpu_limit else None
        if used_s is None:
            return float(psutil.cpu_percent(interval=None))
        now = self._clock.monotonic()
        before, self._last = self._last, (now, used_s)
        if before is None or now <= before[0]:
            return 0.0
        rate = (used_s - before[1]) / (now - before[0]) / self.cores
        return min(100.0, max(0.0, 100.0 * rate))

    def memory(self) -> tuple[int, int]:
        """Bytes used and bytes there are."""
        machine = psutil.virtual_memory()
        limit = None if self._cgroup is None else self._cgroup.memory_limit_bytes()
        if self._cgroup is None or limit is None or limit > machine.total:
            return machine.total - machine.available, machine.total
        used = self._cgroup.memory_used_bytes()
        return (machine.total - machine.available if used is None else used), limit


def gpu(devices: Path = Path("/dev")) -> tuple[str, int] | None:
    """The kind and number of GPUs that this process can reach; None where there is none."""
    try:
        count = sum(1 for d in devices.iterdir() if re.fullmatch(r"nvidia\d+", d.name))
    except OSError:
        count = 0
    if count:
        return "CUDA", count
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "MPS", 1
    return None
