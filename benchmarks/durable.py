"""What durability costs: jobs, HTTP requests and recovery with the SQLite store.

Every contender of a table does the same work in the same rounds. Raw SQLite is the bound: the same
rows inserted and updated in transactions of 100 by one thread that does nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huey
import msgspec
import uvloop

from benchmarks.durable_parts import fill, raw_jobs
from benchmarks.report import in_turns, rate, ratio, table, versions
from benchmarks.web_load import Load
from worker_runtime import Runtime, Settings, task

CALLERS = 1_000
JOBS = 20_000
SLOTS = 1_000
ROUNDS = 5
HUEY_JOBS = 1_000
HUEY_THREADS = 8
CONNECTIONS = 64
SECONDS = 1.5
RECOVERED = (10_000, 100_000, 1_000_000)
CHURN_JOBS = 100_000
CHURN_STEPS = 4

STORES = {
    "ours, `memory://`": "memory://",
    "ours, `ack=memory`": "sqlite:///{path}?ack=memory",
    "ours, `ack=os`": "sqlite:///{path}?ack=os",
    "ours, `ack=durable`": "sqlite:///{path}?ack=durable",
}
RAW = "raw SQLite, transactions of 100, fsync"
HUEY = "Huey `SqliteHuey(fsync=True)`"


@task
async def add(a: int, b: int) -> int:
    return a + b


def settings(**options: object) -> Settings:
    return Settings.from_environment({}, queue_capacity=2_000_000, **options)


@contextmanager
def fresh_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="worker-runtime-bench-") as directory:
        yield Path(directory, "jobs.db")


async def _callers(runtime: Runtime, jobs: int) -> float:
    """Jobs a second from `enqueue` to `result()`, by 1,000 callers that each wait for theirs."""

    async def caller(count: int) -> None:
        for number in range(count):
            job = await runtime.enqueue(add, number, 1)
            if await job.result() != number + 1:
                raise RuntimeError("a wrong result")

    started_at = time.perf_counter()
    await asyncio.gather(*(caller(jobs // CALLERS) for _ in range(CALLERS)))
    return jobs / (time.perf_counter() - started_at)


def ours(url: str, jobs: int = JOBS) -> float:
    async def run() -> float:
        with fresh_path() as path:
            store = url.format(path=path)
            async with Runtime([add], store=store, settings=settings(concurrency=SLOTS)) as runtime:
                await _callers(runtime, CALLERS)  # warm caches and slots
                return await _callers(runtime, jobs)

    return uvloop.run(run())


def raw(jobs: int = JOBS) -> float:
    with fresh_path() as path:
        return raw_jobs(path, jobs)


def hueys(jobs: int = HUEY_JOBS) -> float:
    """Huey's own consumer threads beside its own callers; each job's result is waited for."""
    with fresh_path() as path:
        app = huey.SqliteHuey(filename=str(path), fsync=True)
        run = app.task()(lambda a, b: a + b)
        consumer = app.create_consumer(
            workers=HUEY_THREADS, initial_delay=0.001, backoff=1.0, max_delay=0.001, periodic=False
        )
        consumer.start()
        try:
            started_at = time.perf_counter()
            results = [run(number, 1) for number in range(jobs)]
            for number, result in enumerate(results):
                if (
                    result.get(blocking=True, timeout=60, backoff=1.0, max_delay=0.001)
                    != number + 1
                ):
                    raise RuntimeError("a wrong result")
            return jobs / (time.perf_counter() - started_at)
        finally:
            consumer.stop(graceful=True)


def jobs_section() -> str:
    contenders: dict[str, Callable[[], float]] = {RAW: raw}
    contenders |= {name: functools.partial(ours, url) for name, url in STORES.items()}
    contenders[HUEY] = hueys
    figures = in_turns(contenders, rounds=ROUNDS)
    rows = [
        [name, rate(sorted(values)[len(values) // 2]), f"{ratio(values, figures[RAW]):.2f}x"]
        for name, values in figures.items()
    ]
    return table(["contender", "median, jobs/s", "to raw SQLite"], rows)


def single_caller_section() -> str:
    """One caller at a time: what an acknowledgement takes beyond what the disk asks."""

    async def enqueue_us(url: str) -> float:
        with fresh_path() as path:
            store = url.format(path=path)
            async with Runtime([add], store=store, settings=settings(concurrency=SLOTS)) as runtime:
                times = []
                for _ in range(500):
                    started_at = time.perf_counter()
                    job = await runtime.enqueue(add, 1, 1)
                    times.append(time.perf_counter() - started_at)
                    await job.result()
                return 1e6 * sorted(times)[len(times) // 2]

    def raw_us() -> float:
        with fresh_path() as path:
            return 1e6 / raw_jobs(path, 500, per_transaction=1, updates=False)

    contenders: dict[str, Callable[[], float]] = {"raw SQLite, one row a commit, fsync": raw_us}
    for name, url in STORES.items():
        contenders[name] = lambda url=url: uvloop.run(enqueue_us(url))  # type: ignore[misc]
    figures = in_turns(contenders, rounds=ROUNDS)
    rows = [[name, rate(sorted(values)[len(values) // 2])] for name, values in figures.items()]
    return table(["one caller", "median, us"], rows)


def http_section() -> str:
    body = msgspec.json.encode({"task": "add", "args": [1, 2]})
    with fresh_path() as path:
        urls = {"memory": "memory://", "durable": f"sqlite:///{path}"}
        command = [sys.executable, "-m", "benchmarks.durable_parts", "serve"]
        servers = {
            name: subprocess.Popen([*command, url], stdout=subprocess.PIPE)
            for name, url in urls.items()
        }
        try:
            ports = {}
            for name, server in servers.items():
                assert server.stdout is not None
                ports[name] = int(server.stdout.readline())

            def load(port: int) -> float:
                client = Load(port, "/v1/jobs?wait_s=30", body, connections=CONNECTIONS)
                return uvloop.run(client.run(SECONDS))

            contenders = {name: functools.partial(load, port) for name, port in ports.items()}
            figures = in_turns(contenders, rounds=ROUNDS)
        finally:
            for server in servers.values():
                server.kill()
                server.communicate()
    rows = [
        [
            name,
            rate(sorted(values)[len(values) // 2]),
            f"{ratio(values, figures['memory']):.2f}x",
        ]
        for name, values in figures.items()
    ]
    return table(["store", "median, requests/s", "to memory"], rows)


def recovery_section() -> str:
    rows = []
    for count in RECOVERED:
        with fresh_path() as path:
            fill(path, count)
            command = [sys.executable, "-m", "benchmarks.durable_parts", "recover", str(path)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, grown_bytes = map(float, answer.stdout.split())
            rows.append(
                [
                    f"{count:,}",
                    f"{path.stat().st_size / 2**20:,.0f}",
                    f"{seconds:.2f}",
                    f"{grown_bytes / 2**20:,.0f}",
                    f"{grown_bytes / count:,.0f}",
                ]
            )
    return table(["queued jobs", "file, MiB", "seconds", "memory, MiB", "bytes a job"], rows)


def churn_section() -> str:
    """The size of the file and its log while jobs come and go and 1,000 ended ones are kept."""

    async def run() -> list[list[str]]:
        rows = []
        with fresh_path() as path:
            options = settings(concurrency=SLOTS, history_count_max=1_000)
            async with Runtime([add], store=f"sqlite:///{path}", settings=options) as runtime:
                for step in range(1, CHURN_STEPS + 1):
                    await _callers(runtime, CHURN_JOBS // CHURN_STEPS)
                    figures = runtime.statistics().store
                    assert figures.file_bytes is not None
                    assert figures.log_bytes is not None
                    rows.append(
                        [
                            f"{step * CHURN_JOBS // CHURN_STEPS:,}",
                            f"{figures.file_bytes / 2**20:.1f}",
                            f"{figures.log_bytes / 2**20:.1f}",
                        ]
                    )
        return rows

    return table(["jobs so far", "file, MiB", "log, MiB"], uvloop.run(run()))


def main() -> str:
    """Measure, and return the page's section."""
    gc.collect()
    gc.freeze()  # what was imported is not garbage, and walking it is no part of any contender
    return "\n\n".join(
        [
            "## Durable",
            (
                f"`enqueue` to `result()`, {CALLERS:,} callers, {JOBS:,} jobs, {SLOTS} slots, "
                f"{ROUNDS} rounds in turns. Raw SQLite inserts and updates the same rows of the "
                f"same tables. Huey runs {HUEY_JOBS:,} jobs in {HUEY_THREADS} threads, polling "
                f"every millisecond. {versions('huey', 'uvloop', 'msgspec')}."
            ),
            jobs_section(),
            "One caller, from `enqueue` to its return:",
            single_caller_section(),
            f"`POST /v1/jobs?wait_s=`, {CONNECTIONS} connections:",
            http_section(),
            "Recovery, from opening the file to the last job being in line:",
            recovery_section(),
            "Growth under churn:",
            churn_section(),
        ]
    )


if __name__ == "__main__":
    print(main())
