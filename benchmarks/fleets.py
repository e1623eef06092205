"""The fleets' dialects: what a submission costs, Vera's own worker beside ours, health while busy,
and what ten times the sustainable load does.

Each server is a process of its own and so is the client. Contenders take turns round by round.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
import uvloop

from benchmarks.fleet_servers import NAP_S, QUEUE_SIZE, SLOTS
from benchmarks.report import hardware, in_turns, interpreter, rate, ratio, table, versions
from benchmarks.web_load import Load

ROUNDS = 5
SECONDS = 1.5
CONNECTIONS = 32
HEALTH_LOOKS = 1_000
OVERLOAD_SECONDS = 5.0
GUIDE_TASKS = 20
OUR_TASKS = 2_000

_DOORS = {
    "vera `POST /task/submit`": ("/task/submit", {"payload": {"function": "noop"}}, 8),
    "vera `POST /execute`": ("/execute", {"type": "noop", "payload": {}}, 32),
    "operations `POST /{domain}/start`": ("/noop-operation/start", {}, 1),
}


@contextmanager
def server(name: str) -> Iterator[int]:
    """The server, running: its port."""
    command = [sys.executable, "-m", "benchmarks.fleet_servers", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def submit_paths(*, rounds: int, seconds: float) -> list[list[str]]:
    """A row for each door: ours, the bare handler's, and the ratio."""
    rows = []
    for door, (path, body, connections) in _DOORS.items():
        encoded = msgspec.json.encode(body)

        def loading(
            port: int, path: str = path, encoded: bytes = encoded, connections: int = connections
        ) -> Callable[[], float]:
            def run() -> float:
                return uvloop.run(Load(port, path, encoded, connections=connections).run(seconds))

            return run

        with server("ours") as ours, server("bare") as bare:
            figures = in_turns({"ours": loading(ours), "bare": loading(bare)}, rounds=rounds)
        medians = [rate(statistics.median(figures[name])) for name in ("ours", "bare")]
        rows.append([door, *medians, f"{ratio(figures['ours'], figures['bare']):.2f}"])
    return rows


# Vera's own worker


async def _finish(port: int, count: int) -> float:
    """Tasks a second from the first submission to the last end."""
    body = {"payload": {"function": "noop"}}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

        async def completed() -> int:
            async with http.get("/metrics", headers={"Accept": "application/json"}) as answer:
                return int((await answer.json())["tasks_completed"])

        async def submit(times: int) -> None:
            for _ in range(times):
                async with http.post("/task/submit", json=body) as answer:
                    answer.raise_for_status()

        before = await completed()
        began_at = time.perf_counter()
        await asyncio.gather(*(submit(count // 4) for _ in range(4)))
        while True:
            if await completed() >= before + count:
                break
            await asyncio.sleep(0.01)
        return count / (time.perf_counter() - began_at)


async def _health_latencies_ms(port: int, looks: int) -> list[float]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        found = []
        for _ in range(looks):
            began_at = time.perf_counter()
            async with http.get("/health") as answer:
                await answer.read()
            found.append((time.perf_counter() - began_at) * 1000)
            await asyncio.sleep(0.002)
        return found


async def _health_while_busy(port: int, *, cpu: bool) -> list[float]:
    """Latencies while every slot is occupied: by CPU work in children, or (the guide's worker runs
    nothing) by a queue that does not empty."""
    call = {"function": "compute", "args": [50_000_000]} if cpu else {"function": "noop"}
    looks = HEALTH_LOOKS if cpu else 50
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        for _ in range(SLOTS if cpu else 100):
            async with http.post("/task/submit", json={"payload": call}) as answer:
                answer.raise_for_status()
        await asyncio.sleep(0.5)
        return await _health_latencies_ms(port, looks)


def vera_beside_ours() -> list[list[str]]:
    rows = []
    for name, title, count in (
        ("ours", "ours", OUR_TASKS),
        ("guide", "the guide's worker", GUIDE_TASKS),
    ):
        with server(name) as port:
            finished = uvloop.run(_finish(port, count))
        with server(name) as port:
            latencies = uvloop.run(_health_while_busy(port, cpu=name == "ours"))
        quantiles = statistics.quantiles(latencies, n=100)
        rows.append([title, rate(finished), f"{quantiles[49]:.1f}", f"{quantiles[98]:.1f}"])
    return rows


# Overload


class Offered(msgspec.Struct):
    """What a paced load met: answers by status, and the ids that were accepted."""

    statuses: dict[int, int] = {}
    accepted: list[str] = []


async def _offer(http: aiohttp.ClientSession, per_second: float, seconds: float) -> Offered:
    """Submit at a pace that does not wait for the answers' meaning: 503 is taken and gone past."""
    found = Offered()
    body = msgspec.json.encode({"payload": {"function": "nap"}})
    headers = {"Content-Type": "application/json"}
    until = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        every_s = CONNECTIONS / per_second
        at = time.perf_counter() + every_s * number / CONNECTIONS
        while at < until:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            async with http.post("/task/submit", data=body, headers=headers) as answer:
                data = await answer.read()
            found.statuses[answer.status] = found.statuses.get(answer.status, 0) + 1
            if answer.status == 200:
                found.accepted.append(msgspec.json.decode(data)["task_id"])
            at += every_s

    await asyncio.gather(*(caller(number) for number in range(CONNECTIONS)))
    return found


class Met(msgspec.Struct):
    """What became of an offered load. Latency is from acceptance to the end of the job."""

    offered_per_s: float
    goodput_per_s: float
    refused_share: float
    latency_p99_s: float
    lost: int


async def _overload(port: int, per_second: float) -> Met:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        began_at = time.time()
        offered = await _offer(http, per_second, OVERLOAD_SECONDS)
        until = time.time()
        ends: list[float] = []
        latencies: list[float] = []
        for task_id in offered.accepted:
            record = await _ended(http, task_id)
            if record["status"] == "completed":
                ends.append(_unix(record["completed_at"]))
                latencies.append(ends[-1] - _unix(record["queued_at"]))
    sent = sum(offered.statuses.values())
    first = began_at + OVERLOAD_SECONDS / 5  # the queue has filled by then
    return Met(
        offered_per_s=sent / (until - began_at),
        goodput_per_s=sum(first <= end < until for end in ends) / (until - first),
        refused_share=offered.statuses.get(503, 0) / sent,
        latency_p99_s=statistics.quantiles(latencies, n=100)[98],
        lost=len(offered.accepted) - len(ends),
    )


async def _ended(http: aiohttp.ClientSession, task_id: str) -> dict[str, Any]:
    while True:
        async with http.get(f"/task/{task_id}") as answer:
            record: dict[str, Any] = await answer.json()
        if record.get("status") in ("completed", "failed", None):
            return record
        await asyncio.sleep(0.01)


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def overload() -> list[list[str]]:
    sustainable = SLOTS / NAP_S
    rows = []
    for times in (1.2, 10.0):
        with server("ours") as port:
            met = uvloop.run(_overload(port, times * sustainable))
        rows.append(
            [
                f"{times:g} times the sustainable {sustainable:g}/s",
                rate(met.offered_per_s),
                rate(met.goodput_per_s),
                f"{100 * met.refused_share:.0f} %",
                f"{1000 * met.latency_p99_s:.0f}",
                str(met.lost),
            ]
        )
    return rows


def main(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> str:
    """Measure, and return the page's section."""
    setting = (
        f"{rounds} rounds in turns of {seconds:g} s, servers and client in a process each, uvloop "
        f"everywhere. {interpreter()}, "
        f"{versions('aiohttp', 'msgspec', 'uvloop', 'fastapi', 'uvicorn')}. {hardware()}."
    )
    beside = (
        f"Vera's guide's own worker beside ours ({OUR_TASKS:,} no-op tasks, the guide's "
        f"{GUIDE_TASKS}; health while its queue is full, ours while {SLOTS} CPU-bound jobs fill "
        "every slot and both child processes):"
    )
    crowd = (
        f"Overload: jobs of {1000 * NAP_S:g} ms, {SLOTS} slots, {QUEUE_SIZE} places in line, "
        f"offered for {OVERLOAD_SECONDS:g} s without waiting for room:"
    )
    return "\n\n".join(
        [
            "## Fleets",
            setting,
            "Submissions, against a bare aiohttp handler that decodes and encodes the same:",
            table(
                ["requests/s", "ours", "bare", "ours is, times"],
                submit_paths(rounds=rounds, seconds=seconds),
            ),
            beside,
            table(["", "tasks/s", "health p50, ms", "health p99, ms"], vera_beside_ours()),
            crowd,
            table(
                ["", "offered/s", "goodput/s", "refused", "latency p99, ms", "accepted and lost"],
                overload(),
            ),
        ]
    )


if __name__ == "__main__":
    print(main())
