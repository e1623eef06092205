"""Run one worker under mixed load and faults, and watch what it keeps.

    python -m benchmarks.soak [SECONDS]

A worker of its own, with a SQLite store and a short history, is sent well-behaved jobs and jobs
that time out, fail, crash their child or are cancelled, besides malformed bodies and clients that
hang up. It passes, with exit code 0, if

- every job that was accepted reaches a terminal state that fits its task,
- memory, open files and threads stay where they were once the worker was warm,
- no request was answered with a 500 and nothing was logged as an error, and
- SIGTERM ends it in time with code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.report import hardware, interpreter, table

CLIENTS = 16
SECONDS = 60.0
SEED = 20_260_101
STOP_WITHIN_S = 15.0
SAMPLE_EVERY_S = 0.5
ENVIRONMENT = {
    "MAX_CONCURRENT": "32",
    "QUEUE_CAPACITY": "2000",
    "WORKER_PROCESSES": "2",
    "WORKER_HISTORY_COUNT": "500",
    "WORKER_STOP_WITHIN": "5",
    "LOG_LEVEL": "ERROR",
}
# Growth from the second quarter of the run to the last that counts as a leak.
GROWTH_MAX = {"memory, MB": 40.0, "open files": 20.0, "threads": 8.0}

# What a job of each task may end as, and how often each is asked for.
ENDS: dict[str, tuple[str, ...]] = {
    "quick": ("completed",),
    "flaky": ("completed",),
    "threaded": ("completed",),
    "square": ("completed",),
    "large": ("completed",),
    "late": ("failed",),
    "broken": ("failed",),
    "crash": ("failed",),
    "long": ("cancelled",),
}
WEIGHTS = {"quick": 40, "threaded": 10, "square": 10, "flaky": 8, "large": 4, "late": 4}
WEIGHTS |= {"broken": 4, "crash": 1, "long": 4}
MALFORMED = (b"{", b"[" * 5000, b'{"task": 7}', b'{"task": "quick", "args": ["x"]}', b"\xff\xfe")


@dataclass
class Soak:
    """One run: where the worker is, when the load ends, and what was seen."""

    url: str
    ends_at: float
    answers: Counter[int]
    wrong: list[str]

    async def client(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        while time.monotonic() < self.ends_at:
            dice = chance.random()
            if dice < 0.05:
                await self._post(session, "/v1/jobs", chance.choice(MALFORMED))
            elif dice < 0.10:
                await self._hang_up(session)
            else:
                await self._run(session, chance.choices(names, weights)[0])

    async def _run(self, session: aiohttp.ClientSession, name: str) -> None:
        """Enqueue a job, see it to its end, and check that end."""
        body: dict[str, Any] = {"task": name, "args": [7] if name in ("quick", "square") else []}
        job = await self._post(session, "/v1/jobs", body)
        if job is None:
            return
        at = f"/v1/jobs/{job['id']}"
        if ENDS[name] == ("cancelled",):
            async with session.delete(f"{self.url}{at}") as answer:
                self.answers[answer.status] += 1
        async with session.get(f"{self.url}{at}", params={"wait_s": "20"}) as answer:
            self.answers[answer.status] += 1
            state = (await answer.json()).get("state", f"status {answer.status}")
        if state not in ENDS[name]:
            self.wrong.append(f"{name} {job['id']} is {state}")

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: bytes | dict[str, Any]
    ) -> dict[str, Any] | None:
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        headers = {"Content-Type": "application/json"}
        async with session.post(self.url + path, headers=headers, **content) as answer:
            self.answers[answer.status] += 1
            document: dict[str, Any] = await answer.json()
            if answer.status >= 500 and answer.status != 503:
                self.wrong.append(f"{path} answers {answer.status}: {document}")
            return document if answer.status == 202 else None

    async def _hang_up(self, session: aiohttp.ClientSession) -> None:
        """A client that asks to wait, and does not."""
        try:
            await session.post(
                f"{self.url}/v1/jobs?wait_s=5",
                json={"task": "late"},
                timeout=aiohttp.ClientTimeout(total=0.02),
            )
        except TimeoutError:
            self.answers[0] += 1


class Watch:
    """Samples of what the worker and its children hold."""

    def __init__(self, pid: int) -> None:
        self._worker = psutil.Process(pid)
        self.samples: dict[str, list[float]] = {name: [] for name in GROWTH_MAX}

    async def run(self) -> None:
        while True:
            self._sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def _sample(self) -> None:
        held = dict.fromkeys(GROWTH_MAX, 0.0)
        for process in [self._worker, *self._worker.children(recursive=True)]:
            try:
                held["memory, MB"] += process.memory_info().rss / 1e6
                held["open files"] += process.num_fds()
                held["threads"] += process.num_threads()
            except psutil.NoSuchProcess:  # a child that crashed a moment ago
                continue
        for name, figure in held.items():
            self.samples[name].append(figure)

    def growth(self) -> dict[str, tuple[float, float]]:
        """For each figure its median in the second quarter of the run, and in the last."""
        medians = {}
        for name, figures in self.samples.items():
            quarter = max(1, len(figures) // 4)
            early = statistics.median(figures[quarter : 2 * quarter] or figures)
            medians[name] = (early, statistics.median(figures[-quarter:]))
        return medians


async def soak(seconds: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="worker-runtime-soak-") as directory:
        port, log = _free_port(), Path(directory, "log")
        worker = _start(port, Path(directory), log)
        run = Soak(f"http://127.0.0.1:{port}", time.monotonic() + seconds, Counter(), wrong=[])
        watch = Watch(worker.pid)
        try:
            await _load(run, watch, seconds)
            worker.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(worker.wait, STOP_WITHIN_S)
            if code != 0:
                run.wrong.append(f"SIGTERM ended the worker with {code}")
        finally:
            worker.kill()
            worker.wait()
        run.wrong += _errors_logged(log)
    return _report(run, watch, seconds)


async def _load(run: Soak, watch: Watch, seconds: float) -> None:
    async with aiohttp.ClientSession() as session:
        await _ready(session, run.url)
        run.ends_at = time.monotonic() + seconds
        watching = asyncio.create_task(watch.run())
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(run.client(session, random.Random(SEED + number)))
        watching.cancel()


def _errors_logged(log: Path) -> list[str]:
    return [f"logged: {line[:300]}" for line in log.read_text(errors="replace").splitlines()]


def _report(run: Soak, watch: Watch, seconds: float) -> bool:
    rows = []
    for name, (early, late) in watch.growth().items():
        rows.append([name, f"{early:.0f}", f"{late:.0f}", f"{late - early:+.0f}"])
        if late - early > GROWTH_MAX[name]:
            run.wrong.append(f"{name} grew by {late - early:.0f}, {GROWTH_MAX[name]:.0f} allowed")
    print(f"{seconds:.0f} s, {CLIENTS} clients, {interpreter()}, {hardware()}\n")
    print(table(["held", "second quarter", "last quarter", "growth"], rows), end="\n\n")
    answers = ", ".join(
        f"{count} x {status or 'hung up'}" for status, count in sorted(run.answers.items())
    )
    print(f"answers: {answers}")
    for line in run.wrong[:20]:
        print(f"WRONG: {line}")
    print("passed" if not run.wrong else f"failed: {len(run.wrong)} things went wrong")
    return not run.wrong


def _start(port: int, directory: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "worker_runtime", "run", "benchmarks.soak_tasks"]
    command += ["--port", str(port)]
    environment = {**os.environ, **ENVIRONMENT, "WORKER_STORE": f"sqlite:///{directory}/jobs.db"}
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


async def _ready(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("seconds", nargs="?", type=float, default=SECONDS)
    sys.exit(not asyncio.run(soak(arguments.parse_args().seconds)))
