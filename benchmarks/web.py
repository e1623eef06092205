"""HTTP requests a second: ours against a bare aiohttp handler and against FastAPI on uvicorn.

Each server is a process of its own and so is the client. They take turns: in every round each
server is loaded once, the others meanwhile idle.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
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


@contextmanager
def servers() -> Iterator[dict[str, int]]:
    """The three servers, running: their ports."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in NAMES:
            command = [sys.executable, "-m", "benchmarks.web_servers", name]
            processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE)
        ports = {}
        for name, process in processes.items():
            assert process.stdout is not None
            ports[name] = int(process.stdout.readline())
        yield ports
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def measure(
    ports: Mapping[str, int],
    path: str,
    body: bytes,
    *,
    connections: int = CONNECTIONS,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, list[float]]:
    """Requests a second of each server, round by round."""

    def loading(port: int) -> Callable[[], float]:
        def run() -> float:
            return uvloop.run(Load(port, path, body, connections=connections).run(seconds))

        return run

    return in_turns({name: loading(port) for name, port in ports.items()}, rounds=rounds)


def _section(figures: Mapping[str, list[float]], unit: str, *, per_request: int = 1) -> str:
    ours = figures["ours"]
    rows = [
        [
            NAMES[name],
            rate(sorted(values)[len(values) // 2] * per_request),
            "1.00" if name == "ours" else f"{ratio(ours, values):.2f}",
        ]
        for name, values in figures.items()
    ]
    return table(["", unit, "ours is, times"], rows)


def main(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> str:
    """Measure, and return the page's section."""
    with servers() as ports:
        task = measure(ports, "/task", _TASK, rounds=rounds, seconds=seconds)
        job = measure(ports, "/v1/jobs?wait_s=30", _JOB, rounds=rounds, seconds=seconds)
        batch = measure(
            ports,
            "/v1/jobs/batch?wait_s=30",
            _BATCH,
            connections=BATCH_CONNECTIONS,
            rounds=rounds,
            seconds=seconds,
        )
    setting = (
        f"No-op task, {rounds} rounds in turns of {seconds:g} s, servers and client in a process "
        "each, uvloop everywhere. "
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
            _section(task, "requests/s"),
            f"Native `POST /v1/jobs?wait_s=`, {CONNECTIONS} connections:",
            _section(job, "requests/s"),
            f"Native `POST /v1/jobs/batch?wait_s=`, {many}:",
            _section(batch, "jobs/s", per_request=BATCH_JOBS),
        ]
    )


if __name__ == "__main__":
    print(main())
