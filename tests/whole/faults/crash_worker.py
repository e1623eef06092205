"""One life of a worker that is going to be killed. Run by `crash.py`, never imported by it.

Everything that can be seen of its jobs is written to the ledger, a file that a process which
outlives this one has opened: a line has left this process before the next thing happens.

    R             the runtime is open, earlier jobs are recovered
    E id          enqueue was called          A id   it returned: the job is acknowledged
    S id attempt  a run began                 F id   it ended, without being stopped
    T id state    the job was seen in a terminal state
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker_runtime import JobContext, Retry, Runtime, Settings, UnknownJob, task
from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.stores.sqlite.file import statements, writer
from worker_runtime.stores.sqlite.journal import Journal

LEDGER_FD = 1
CALLERS = 16


def note(*words: object) -> None:
    os.write(LEDGER_FD, (" ".join(map(str, words)) + "\n").encode())


@task
async def quick(ctx: JobContext, wait_s: float) -> str:
    note("S", ctx.job_id, ctx.attempt)
    if wait_s:
        await asyncio.sleep(wait_s)
    note("F", ctx.job_id)
    return ctx.job_id


@task(on_crash="fail")
async def once(ctx: JobContext, wait_s: float) -> str:
    note("S", ctx.job_id, ctx.attempt)
    await asyncio.sleep(wait_s)
    note("F", ctx.job_id)
    return ctx.job_id


@task(retry=Retry(max_attempts=2, delay_s=0.001, jitter=0))
async def stubborn(ctx: JobContext, wait_s: float) -> None:
    note("S", ctx.job_id, ctx.attempt)
    await asyncio.sleep(wait_s)
    note("F", ctx.job_id)
    raise ValueError("as always")


@task
def threaded(ctx: JobContext, wait_s: float) -> str:
    note("S", ctx.job_id, ctx.attempt)
    time.sleep(wait_s)
    note("F", ctx.job_id)
    return ctx.job_id


TASKS: list[Callable[..., Any]] = [quick, once, stubborn, threaded]


async def watch(handle: JobHandle[Any]) -> None:
    await handle.wait()
    note("T", handle.id, handle.state)


async def call(runtime: Runtime, prefix: str, chance: random.Random, watches: set[Any]) -> None:
    """Enqueue one job after the other, waiting for the acknowledgement only."""
    for number in range(1_000_000):
        kind = chance.choice(TASKS)
        job_id = f"{prefix}-{number}-{kind.__name__}"
        note("E", job_id)
        wait_s = chance.choice((0.0, 0.002, 0.02))
        handle = await runtime.options(job_id=job_id).enqueue(kind, wait_s)
        note("A", job_id)
        watching = asyncio.create_task(watch(handle))
        watches.add(watching)
        watching.add_done_callback(watches.discard)
        if chance.random() < 0.05:
            await handle.cancel()
        await asyncio.sleep(chance.random() * 0.01)


async def live(options: argparse.Namespace) -> None:
    settings = Settings(history_count_max=1_000_000, crashes_max=3)
    store = f"sqlite:///{options.path}?ack={options.ack}"
    runtime = Runtime(TASKS, concurrency=8, queue_capacity=100_000, store=store, settings=settings)
    async with runtime:
        note("R")
        chance = random.Random(options.seed)
        watches: set[Any] = set()
        calls = [
            asyncio.create_task(call(runtime, f"{options.life}-{n}", chance, watches))
            for n in range(options.callers)
        ]
        if calls:
            await asyncio.sleep(options.run_s)
            for calling in calls:
                calling.cancel()
            await asyncio.wait(calls)
        await runtime.join()
        for job_id in Path(options.report).read_text().split() if options.report else ():
            await report(runtime, job_id)


async def report(runtime: Runtime, job_id: str) -> None:
    try:
        handle = await runtime.find(job_id)
    except UnknownJob:
        return
    note("T", job_id, handle.state)


# Stores that break their promises, to show that the checks see it. Each makes its window wide.


def acknowledge_before_commit() -> None:
    slow_commits()
    accept = Journal.accept

    def broken(self: Journal, rows: Any, *, acknowledge_now: bool) -> Any:
        return accept(self, rows, acknowledge_now=True)

    Journal.accept = broken  # type: ignore[method-assign]


def forget_the_attempt() -> None:
    def broken(self: Journal, place: int, columns: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    Journal.start = broken  # type: ignore[method-assign]


def show_before_commit() -> None:
    slow_commits()
    change = Journal.change

    def broken(self: Journal, place: int, columns: Any, then: Callable[[], None]) -> None:
        change(self, place, columns, lambda: None)
        then()

    Journal.change = broken  # type: ignore[method-assign]


def slow_commits() -> None:
    def slow(connection: Any, batch: Any) -> set[int]:
        time.sleep(0.05)
        return statements.write(connection, batch)

    vars(writer)["write"] = slow


BREAKS = {
    "acknowledge_before_commit": acknowledge_before_commit,
    "forget_the_attempt": forget_the_attempt,
    "show_before_commit": show_before_commit,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--life", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--callers", type=int, default=CALLERS)
    parser.add_argument("--run-s", type=float, default=30.0)
    parser.add_argument("--ack", default="durable")
    parser.add_argument("--report", help="a file of ids whose states are written at the end")
    parser.add_argument("--break", dest="broken", choices=BREAKS)
    options = parser.parse_args()
    if options.broken:
        BREAKS[options.broken]()
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(live(options))


if __name__ == "__main__":
    main()
