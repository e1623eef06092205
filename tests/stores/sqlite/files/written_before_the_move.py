"""What `written_before_the_move.sqlite` was written with: by the code of before the modules were
moved into folders (commit 2dac023), in three lives that each ended with kill -9.

The tasks are those that today's code runs what it left behind with; only `gone` is not there any
more. To write the file again, from the root of the repository:

    git worktree add OLD 2dac023
    PYTHONPATH=OLD:. python tests/stores/sqlite/files/written_before_the_move.py FILE

Its clock stood at `WRITTEN_AT`, so that no machine that runs the tests is behind it. Tracebacks in
the file name the folders that this was run in.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from worker_runtime import (
    JobContext,
    Priority,
    QueueSettings,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    call,
    cron,
    step,
    task,
)
from worker_runtime.client import WorkerUnreachable
from worker_runtime.progress_bridge import ProgressBridge

WRITTEN_AT = datetime(2025, 7, 1, 12, tzinfo=UTC)

# As many seconds as each option allows: until the middle of 2035, and until 2053.
TEN_YEARS_S = 10 * 365 * 86_400.0
MANY_YEARS_S = 9e8


class Busy(Exception):
    """An exception of the application, which a job's own `Retry` names."""


@dataclass
class Order:
    number: int
    at: datetime
    tags: list[str]


class Then:
    """What is different in the lives that write the file: tasks go on for ever, or fail."""

    is_now = False


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task
async def sum_up(numbers: list[int]) -> int:
    return sum(numbers)


@task
async def deliver(order: Order, on: date, sign: bytes = b"\x00\xff") -> Order:
    return Order(order.number, order.at + timedelta(days=1), [*order.tags, on.isoformat()])


@task
async def report(ctx: JobContext) -> str:
    for number in range(5):
        ctx.record_metric("loss", 1.0 / (number + 1))
    facts = {"current_step": 4, "total_epochs": 5, "items_processed": 40, "items_total": 50}
    ProgressBridge(ctx)._update_state(80.0, "nearly", current_item="the last one", **facts)
    return "reported"


@task
async def fail(text: str) -> None:
    raise ValueError(text)


@task(timeout_s=0.05)
async def take_too_long() -> None:
    await asyncio.sleep(60)


@task
async def opaque() -> object:
    return object()


@task(run_in="process")
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
async def hold(ctx: JobContext, n: int = 0) -> int:
    """Runs until its process is killed; today it ends at once."""
    while not Then.is_now:
        await asyncio.sleep(0.02)
    return ctx.attempt + 100 * n


@task(on_crash="fail")
async def fragile() -> None:
    await asyncio.sleep(60)


@task(retry=Retry(max_attempts=3, delay_s=MANY_YEARS_S, delay_max_s=MANY_YEARS_S, jitter=0.0))
async def try_much_later(text: str) -> None:
    raise KeyError(text)


@task
async def postpone() -> None:
    raise RunAgain(TEN_YEARS_S)


@task
async def be_busy(ctx: JobContext, kind: str) -> int:
    if ctx.attempt == 1:
        kinds = {"busy": Busy, "timeout": TimeoutError, "unreachable": WorkerUnreachable}
        raise kinds[kind](kind)
    return ctx.attempt


@task
async def gone(n: int) -> int:
    return n


@cron("33 3 29 2 *", name="leap-day", tz="Europe/Berlin", missed="skip")
@task
async def tick() -> None:
    pass


TASKS = [
    *(add, sum_up, deliver, report, fail, take_too_long, opaque, crash, hold, fragile),
    *(try_much_later, postpone, be_busy, tick),
]
QUEUES = [QueueSettings("line", concurrency=1), QueueSettings("wide", concurrency=50)]

# One job's own policy, with everything that it can say.
OPTIONS: dict[str, Any] = {
    "timeout_s": 5.0,
    "retry": Retry(
        max_attempts=4,
        delay_s=0.0,
        factor=3.0,
        delay_max_s=7.0,
        jitter=0.5,
        only_for=(Busy, OSError, WorkerUnreachable),
    ),
    "result_ttl_s": MANY_YEARS_S,
    "expires_s": MANY_YEARS_S,
    "label": "für Zoë",
    "key": "customer-7",
    "unique_key": "report:7",
}


def runtime_on(path: str, **more: Any) -> Runtime:
    """A runtime on the file, as each life has it; jobs that have ended are kept for ever."""
    settings = Settings.from_environment(
        {},
        store=f"sqlite:///{path}",
        history_ttl_s=1e12,
        cancel_grace_s=0.1,
        stop_within_s=0.1,
        queue_capacity=1000,
        processes=1,
    )
    return Runtime(**{"tasks": TASKS, "queues": QUEUES, "settings": settings, **more})


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _until(runtime: Runtime, state: State, *job_ids: str) -> None:
    for job_id in job_ids:
        while (await runtime.find(job_id)).state is not state:
            await asyncio.sleep(0.01)


async def first_life(path: str) -> None:
    async with runtime_on(path) as runtime:
        await runtime.options(job_id="running-thrice", queue="wide").enqueue(hold, 3)
        await runtime.options(job_id="failed-interrupted", queue="wide").enqueue(fragile)
        await _until(runtime, State.RUNNING, "running-thrice", "failed-interrupted")
        killed()


async def second_life(path: str) -> None:
    async with runtime_on(path) as runtime:
        await runtime.options(job_id="running-twice", queue="wide").enqueue(hold, 2)
        await _until(runtime, State.RUNNING, "running-thrice", "running-twice")
        killed()


async def third_life(path: str) -> None:
    async with runtime_on(path, tasks=[*TASKS, gone]) as runtime:
        await _ended(runtime)
        await _waiting(runtime)
        await _until(runtime, State.RUNNING, "running-thrice", "running-twice")
        killed()


async def _ended(runtime: Runtime) -> None:
    order = Order(7, datetime(2024, 2, 29, 12, tzinfo=UTC), ["a", "ü"])

    def named(job_id: str, **options: Any) -> Any:
        return runtime.options(job_id=job_id, **options)

    jobs = [
        await named("completed").enqueue(add, 1, b=2),
        await named("completed-types").enqueue(deliver, order, date(2024, 3, 1)),
        await named("completed-report", label="told").enqueue(report),
        await named("completed-unique", unique_key="once", unique_for_s=MANY_YEARS_S).enqueue(
            add, 20
        ),
        await named("completed-kept", result_ttl_s=MANY_YEARS_S).enqueue(add, 30),
        await named("failed-error").enqueue(fail, "no: ü"),
        await named("failed-retried", retry=Retry(2, delay_s=0.0)).enqueue(fail, "twice"),
        await named("failed-timeout").enqueue(take_too_long),
        await named("failed-unencodable").enqueue(opaque),
        await named("failed-crashed").enqueue(crash),
        await named("failed-expired", queue="line", expires_s=0.001, delay_s=0.05).enqueue(add, 1),
    ]
    for job in jobs:
        await job.wait(timeout_s=60)
    parent = await named("failed-parent").enqueue(fail, "parent")
    group = await runtime.group(*(call(add, n) for n in range(3)), workflow_id="group")
    await group.result(timeout_s=60)
    child = await named("cancelled-child", after=[parent]).enqueue(add, 1)
    await child.wait(timeout_s=60)

    waiting = await named("cancelled-waiting", delay_s=60.0).enqueue(add, 1)
    await waiting.cancel("not wanted")
    running = await named("cancelled-running", queue="wide").enqueue(hold)
    await _until(runtime, State.RUNNING, "cancelled-running")
    await running.cancel("stop it")
    await running.wait(timeout_s=60)


async def _waiting(runtime: Runtime) -> None:
    def named(job_id: str, **options: Any) -> Any:
        return runtime.options(job_id=job_id, **options)

    await named("delayed", delay_s=TEN_YEARS_S).enqueue(add, 1)
    await named("delayed-for-a-minute", delay_s=60.0).enqueue(add, 2)
    await named("waits-for-retry").enqueue(try_much_later, "later")
    await named("postponed").enqueue(postpone)
    for job_id in ("waits-for-retry", "postponed"):
        await _until(runtime, State.SCHEDULED, job_id)

    blocker = await named("running", queue="line").enqueue(hold)
    await _until(runtime, State.RUNNING, "running")
    # From here on the line starts nothing.
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.CRITICAL):
        name = f"queued-{priority.name.lower()}"
        await named(name, queue="line", priority=priority).enqueue(add, int(priority))
    await named("queued-options", queue="line", **OPTIONS).enqueue(be_busy, "busy")
    await named("queued-unreachable", queue="line", retry=OPTIONS["retry"]).enqueue(
        be_busy, "unreachable"
    )
    await named("queued-lineage", queue="line", retry=OPTIONS["retry"]).enqueue(be_busy, "timeout")
    other = Retry(2, delay_s=0.0, only_for=(KeyError,))
    await named("queued-other", queue="line", retry=other).enqueue(be_busy, "busy")
    await named("queued-without", queue="line", retry=None, timeout_s=None).enqueue(fail, "last")
    await named("queued-expires", queue="line", expires_s=1.0).enqueue(add, 1)
    await named("parked", queue="line").enqueue(gone, 5)
    await named("parked-too", queue="line", label="later").enqueue(gone, 6)
    await named("held", after=[blocker]).enqueue(add, 40)
    await runtime.chain(
        call(hold, 1), [step(add), step(add, 10)], step(sum_up), workflow_id="chain"
    )
    await named("running-fragile", queue="wide").enqueue(fragile)
    await _until(runtime, State.RUNNING, "chain.0", "running-fragile")


def live(life: str, path: str, ahead_s: float) -> None:
    """One life, in this process and to its end; `ahead_s` of WRITTEN_AT are taken off the clock."""
    now = time.time
    time.time = lambda: now() - ahead_s
    asyncio.run(globals()[life](path))


def main(path: str) -> None:
    """Write the file at `path`, one process a life, and leave it without a log beside it."""
    ahead_s = time.time() - WRITTEN_AT.timestamp()
    for life in ("first_life", "second_life", "third_life"):
        code = f"from {__name__} import live; live({life!r}, {path!r}, {ahead_s!r})"
        done = subprocess.run([sys.executable, "-c", code], timeout=120)
        assert done.returncode == -signal.SIGKILL, done.returncode
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.unlink(f"{path}.lock")


if __name__ == "__main__":
    # Under its real name: what is stored must not be called `__main__`.
    from tests.stores.sqlite.files import written_before_the_move

    written_before_the_move.main(sys.argv[1])
