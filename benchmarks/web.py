"""HTTP requests a second: ours against a bare aiohttp handler and against FastAPI on uvicorn.

Each server is a process of its own and so is the client. They take turns: in every round each
server is loaded once, the others meanwhile idle. Besides what a clock sees, the page shows requests
per second of the server's own CPU time: on a machine that others use too, or where the client is
what limits, that is the figure that says what a request costs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import psutil
import uvloop

from benchmarks.report import hardware, in_turns, interpreter, rate, ratio, table, versions
from benchmarks.web_load import Load

CONNECTIONS = 64
BATCH_JOBS = 1_000
BATCH_CONNECTIONS = 4
ROUNDS = 7
SECONDS = 1.5

NAMES = {
    "bare": "aiohttp handler, same decode and encode, no jobs",
    "ours": "ours",
    "fastapi": "FastAPI + uvicorn",
}
_TASK = msgspec.json.encode({"id": "task-123", "weight": 1.0})
_JOB = msgspec.json.encode({"task": "noop"})
_BATCH = msgspec.json.encode([{"task": "noop"}] * BATCH_JOBS)


class Server(NamedTuple):
    port: int
    process: psutil.Process


class Figures(NamedTuple):
    """Requests a second of one server, round by round: by the clock, and of its CPU time."""

    by_clock: list[float]
    by_cpu: list[float]


@contextmanager
def servers() -> Iterator[dict[str, Server]]:
    """The three servers, running."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in NAMES:
            command = [sys.executable, "-m", "benchmarks.web_servers", name]
            processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE)
        running = {}
        for name, process in processes.items():
            assert process.stdout is not None
            running[name] = Server(int(process.stdout.readline()), psutil.Process(process.pid))
        yield running
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def measure(
    running: Mapping[str, Server],
    path: str,
    body: bytes,
    *,
    connections: int = CONNECTIONS,
    rounds: int,
    seconds: float,
) -> dict[str, Figures]:
    by_cpu: dict[str, list[float]] = {name: [] for name in running}

    def loading(name: str, server: Server) -> Callable[[], float]:
        def run() -> float:
            load = Load(server.port, path, body, connections=connections)
            before_s = _cpu_s(server)
            by_clock = uvloop.run(load.run(seconds))
            by_cpu[name].append(load.answered / (_cpu_s(server) - before_s))
            return by_clock

        return run

    by_clock = in_turns({n: loading(n, server) for n, server in running.items()}, rounds=rounds)
    return {name: Figures(by_clock[name], by_cpu[name]) for name in running}


def _cpu_s(server: Server) -> float:
    times = server.process.cpu_times()
    return times.user + times.system


def _section(figures: Mapping[str, Figures], unit: str, *, per_request: int = 1) -> str:
    ours = figures["ours"]
    rows = [
        [
            NAMES[name],
            rate(statistics.median(by_clock) * per_request),
            f"{ratio(ours.by_clock, by_clock):.2f}",
            rate(statistics.median(by_cpu) * per_request),
            f"{ratio(ours.by_cpu, by_cpu):.2f}",
        ]
        for name, (by_clock, by_cpu) in figures.items()
    ]
    return table(["", f"{unit}/s", "ours is, times", f"{unit}/CPU s", "ours is, times"], rows)


def main(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> str:
    """Measure, and return the page's section."""
    with servers() as running:
        task = measure(running, "/task", _TASK, rounds=rounds, seconds=seconds)
        job = measure(running, "/v1/jobs?wait_s=30", _JOB, rounds=rounds, seconds=seconds)
        batch = measure(
            running,
            "/v1/jobs/batch?wait_s=30",
            _BATCH,
            connections=BATCH_CONNECTIONS,
            rounds=rounds,
            seconds=seconds,
        )
    setting = (
        f"No-op task, {rounds} rounds in turns of {seconds:g} s, servers and client in a process "
        "each, uvloop everywhere; ours sets the garbage collector as its server does. "
        f"{interpreter()}, "
        f"{versions('aiohttp', 'msgspec', 'uvloop', 'fastapi', 'pydantic', 'uvicorn')}. "
        f"{hardware()}."
    )
    many = f"{BATCH_JOBS:,} jobs a request, {BATCH_CONNECTIONS} connections"
    return "\n\n".join(
        [
            "## HTTP",
            setting,
            f"Sandbox `POST /task`, {CONNECTIONS} connections:",
            _section(task, "requests"),
            f"Native `POST /v1/jobs?wait_s=`, {CONNECTIONS} connections:",
            _section(job, "requests"),
            f"Native `POST /v1/jobs/batch?wait_s=`, {many}:",
            _section(batch, "jobs", per_request=BATCH_JOBS),
        ]
    )


if __name__ == "__main__":
    print(main())
