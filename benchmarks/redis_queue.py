"""Job queues on one Redis: enqueue, process, and how soon a job is picked up at low load.

Every contender runs in a process of its own, in an environment of its own under `.cache/` that is
made on first use, with the same number of jobs and slots, in turns. Figures are those of one worker
process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.report import rate, ratio, table, versions
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(__file__).resolve().parent / "redis_queue_rivals"
JOBS = 4_000
SLOTS = 100
ROUNDS = 3
LATENCIES = 40
TIMEOUT_S = 300.0


class Contender(msgspec.Struct, frozen=True):
    """A script and the packages that its environment needs; without any it runs in this one."""

    label: str
    script: str
    packages: tuple[str, ...] = ()
    work: str = "work"
    needs_redis: int = 0


OURS = Contender("ours, on arq's wire", "ours.py")
ARQ_PACKAGES = ("arq==0.28.0", "redis<6", "uvloop")
ARQ = Contender("arq 0.28", "arq_rival.py", ARQ_PACKAGES)
ARQ_QUICK = Contender("arq 0.28, poll 10 ms", "arq_rival.py", ARQ_PACKAGES, "work_quick")
RIVALS = (
    ARQ,
    ARQ_QUICK,
    Contender("SAQ", "saq_rival.py", ("saq[redis,hiredis]", "uvloop", "typing-extensions")),
    Contender("streaQ", "streaq_rival.py", ("streaq", "uvloop"), needs_redis=7),
    Contender("taskiq", "taskiq_rival.py", ("taskiq-redis", "uvloop", "hiredis")),
)
CONTENDERS = (OURS, *RIVALS)


@functools.cache
def python_of(contender: Contender) -> str:
    """The interpreter of the contender's environment, made where it is missing."""
    if not contender.packages:
        return sys.executable
    name = contender.packages[0].translate(str.maketrans("[],=<", "-----"))
    python = ROOT / ".cache" / f"bench-{name}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "-q", "install", *contender.packages], check=True)
    return str(python)


def run(contender: Contender, verb: str, port: int, count: int) -> list[float]:
    """Run a contender's script and return the numbers that it prints."""
    done = subprocess.run(
        [python_of(contender), str(SCRIPTS / contender.script), verb, str(port), str(count),
         str(SLOTS)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{contender.label}: {done.stderr.decode()[-1000:]}"
    return [float(word) for word in done.stdout.split()]


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.close()


def process(server: RedisServer, function: str, contender: Contender) -> dict[str, float]:
    """One round of a contender: enqueue and process, in jobs a second, and its commands a job."""
    with server.client() as client:
        client.flushall()
        [enqueue_s] = run(contender, f"enqueue:{function}", server.port, JOBS)
        client.config_resetstat()
        [work_s] = run(contender, contender.work, server.port, JOBS)
        found: dict[str, dict[str, float]] = client.info("commandstats")
        commands = sum(figures["calls"] for figures in found.values())
        scripts = sum(
            figures["calls"] for name, figures in found.items() if name.startswith("cmdstat_eval")
        )
    return {
        "enqueue": JOBS / enqueue_s,
        "work": JOBS / work_s,
        "commands": commands / JOBS,
        "scripts": scripts / JOBS,
    }


def able(server: RedisServer) -> tuple[list[Contender], str]:
    """The contenders that this server is new enough for, and a sentence on the others."""
    with server.client() as client:
        major = int(client.info("server")["redis_version"].split(".")[0])
    left_out = [c.label for c in CONTENDERS if c.needs_redis > major]
    note = f" Not run, because it needs Redis 7: {', '.join(left_out)}." if left_out else ""
    return [c for c in CONTENDERS if c.needs_redis <= major], note


def throughput_section(server: RedisServer, function: str) -> str:
    contenders, _ = able(server)
    rounds: dict[str, list[dict[str, float]]] = {c.label: [] for c in contenders}
    for _ in range(ROUNDS):
        for contender in contenders:
            rounds[contender.label].append(process(server, function, contender))
    ours = [one["work"] for one in rounds[OURS.label]]
    rows = []
    for label, found in rounds.items():
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        rows.append(
            [
                label,
                rate(middle["enqueue"]),
                rate(middle["work"]),
                f"{ratio(ours, [one['work'] for one in found]):.1f}",
                f"{middle['commands']:.1f}",
                f"{middle['scripts']:.2f}",
            ]
        )
    header = ["", "enqueued/s", "processed/s", "ours is x", "commands/job", "script calls/job"]
    return table(header, rows)


def latency_section(server: RedisServer) -> str:
    rows = []
    for contender in able(server)[0]:
        if contender is ARQ_QUICK:  # its own default is what a user has
            continue
        with server.client() as client:
            client.flushall()
        found = sorted(run(contender, "latency", server.port, LATENCIES))
        p50, p95 = (1000 * found[int(share * (len(found) - 1))] for share in (0.5, 0.95))
        rows.append([contender.label, f"{p50:.1f}", f"{p95:.1f}"])
    return table(["one job each 50 ms", "p50, ms", "p95, ms"], rows)


def main() -> str:
    """Measure, and return the page's section."""
    with redis_server() as server, server.client() as client:
        version = client.info("server")["redis_version"]
        return "\n\n".join(
            [
                "## Redis queue",
                (
                    f"Redis {version}, {JOBS:,} jobs, {SLOTS} slots, {ROUNDS} rounds in turns, one "
                    "worker process; from the start of the first job to the end of the last, ours "
                    "until its result is written too. The enqueuer awaits each job. Commands "
                    "include those inside scripts. "
                    f"{versions('redis', 'hiredis', 'uvloop')}.{able(server)[1]}"
                ),
                "No-op jobs:",
                throughput_section(server, "noop"),
                "Jobs that sleep for 10 ms:",
                throughput_section(server, "sleep_10ms"),
                "From enqueue to the start of the job, at low load:",
                latency_section(server),
            ]
        )


if __name__ == "__main__":
    print(main())
