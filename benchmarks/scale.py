"""What a queued job costs in memory and time, from a thousand to a million in the queue."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import psutil
import uvloop

from benchmarks.report import table
from worker_runtime import Runtime, Settings, task

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
# Small counts are repeated so that each row measures about as many jobs.
JOBS_PER_ROW = 1_000_000


@task
async def noop() -> None:
    pass


async def measure(count: int) -> tuple[float, float]:
    """Bytes of memory per queued job, and microseconds from `enqueue` to its end, with `count`
    jobs in the queue."""
    settings = Settings.from_environment({})
    async with Runtime([noop], settings=settings, queue_capacity=count) as runtime:
        process = psutil.Process()
        spent_s = 0.0
        bytes_per_job = 0.0
        for _ in range(max(1, JOBS_PER_ROW // count)):
            runtime.pause("default")
            gc.collect()
            before = process.memory_info().rss
            started_at = time.perf_counter()
            for _ in range(count):
                await runtime.enqueue(noop)
            spent_s += time.perf_counter() - started_at
            bytes_per_job = max(bytes_per_job, (process.memory_info().rss - before) / count)
            started_at = time.perf_counter()
            runtime.resume("default")
            await runtime.join()
            spent_s += time.perf_counter() - started_at
        jobs = max(1, JOBS_PER_ROW // count) * count
        return bytes_per_job, spent_s / jobs * 1e6


def main() -> str:
    """Measure each count in a process of its own, and return the page's section."""
    rows = []
    base_us = 0.0
    for count in COUNTS:
        command = [sys.executable, "-m", "benchmarks.scale", str(count)]
        printed = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ
        ).stdout
        bytes_per_job, microseconds = map(float, printed.split())
        base_us = base_us or microseconds
        shown_bytes = f"{bytes_per_job:,.0f}" if count >= 100_000 else "below page size noise"
        rows.append(
            [f"{count:,}", shown_bytes, f"{microseconds:.2f}", f"{microseconds / base_us:.2f}x"]
        )
    header = ["jobs queued", "bytes a job (resident)", "µs a job", "to 1,000"]
    return "\n\n".join(
        [
            "## Scale",
            (
                "No-op jobs without arguments, all queued before the first one starts; the cost is "
                "`enqueue` plus running. Memory is the growth of the process's resident set."
            ),
            table(header, rows),
        ]
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*uvloop.run(measure(int(sys.argv[1]))))
    else:
        print(main())
