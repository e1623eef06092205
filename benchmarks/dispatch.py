"""Jobs a second through the runtime in memory, against plain asyncio and aiojobs.

Each contender keeps 1,000 calls outstanding and collects every result. Ours does so with argument
checks, priorities, history and metrics on, as they always are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiojobs
import uvloop

from benchmarks.report import in_turns, rate, ratio, table, versions
from worker_runtime import Runtime, Settings, task

OUTSTANDING = 1_000
BATCHES = 50
ROUNDS = 7

Work = Callable[[], Coroutine[Any, Any, None]]


@task
async def noop() -> None:
    pass


@task
async def noop_with_argument(number: int) -> None:
    pass


@task
async def suspend_once() -> None:
    await asyncio.sleep(0)


async def _timed(batch: Callable[[], Awaitable[None]]) -> float:
    await batch()  # warm caches and slots
    started_at = time.perf_counter()
    for _ in range(BATCHES):
        await batch()
    return OUTSTANDING * BATCHES / (time.perf_counter() - started_at)


async def gather_tasks(work: Work) -> float:
    async def batch() -> None:
        await asyncio.gather(*[asyncio.create_task(work()) for _ in range(OUTSTANDING)])

    return await _timed(batch)


async def handwritten_queue(work: Work) -> float:
    """What people write: a PriorityQueue, ten workers, a future per call."""
    queue: asyncio.PriorityQueue[tuple[int, int, Work, asyncio.Future[None]]]
    queue = asyncio.PriorityQueue()
    loop = asyncio.get_running_loop()
    number = 0

    async def worker() -> None:
        while True:
            _, _, call, future = await queue.get()
            try:
                await call()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    async def batch() -> None:
        nonlocal number
        futures = []
        for _ in range(OUTSTANDING):
            number += 1
            future: asyncio.Future[None] = loop.create_future()
            queue.put_nowait((2, number, work, future))
            futures.append(future)
        for future in futures:
            await future

    workers = [asyncio.create_task(worker()) for _ in range(10)]
    try:
        return await _timed(batch)
    finally:
        for each in workers:
            each.cancel()


async def aiojobs_scheduler(work: Work) -> float:
    async with aiojobs.Scheduler(limit=10, pending_limit=0) as scheduler:

        async def batch() -> None:
            jobs = [await scheduler.spawn(work()) for _ in range(OUTSTANDING)]
            for job in jobs:
                await job.wait()

        return await _timed(batch)


async def ours(
    work: Callable[..., Coroutine[Any, Any, None]],
    argument: int | None = None,
    *,
    concurrency: int = 10,
) -> float:
    settings = Settings.from_environment({}, concurrency=concurrency, queue_capacity=2_000)
    tasks: list[Callable[..., Any]] = [noop, noop_with_argument, suspend_once]
    async with Runtime(tasks, settings=settings) as runtime:

        async def batch() -> None:
            # Two calls as people write them: unpacking `*args` would cost more than an argument.
            if argument is None:
                jobs = [await runtime.enqueue(work) for _ in range(OUTSTANDING)]
            else:
                jobs = [await runtime.enqueue(work, argument) for _ in range(OUTSTANDING)]
            for job in jobs:
                await job.result()

        return await _timed(batch)


def _in_uvloop(run: Callable[[], Coroutine[Any, Any, float]]) -> Callable[[], float]:
    return lambda: uvloop.run(run())


def main() -> str:
    """Measure, and return the page's section."""
    no_op = in_turns(
        {
            "`create_task` + `gather`, bare coroutine": _in_uvloop(lambda: gather_tasks(noop)),
            "hand-written `PriorityQueue`, workers, futures": _in_uvloop(
                lambda: handwritten_queue(noop)
            ),
            "aiojobs `Scheduler(limit=10)`": _in_uvloop(lambda: aiojobs_scheduler(noop)),
            "ours, concurrency 10": _in_uvloop(lambda: ours(noop)),
            "ours, concurrency 10, one checked argument": _in_uvloop(
                lambda: ours(noop_with_argument, 7)
            ),
        },
        rounds=ROUNDS,
    )
    suspending = in_turns(
        {
            "`create_task` + `gather`, bare coroutine": _in_uvloop(
                lambda: gather_tasks(suspend_once)
            ),
            "hand-written `PriorityQueue`, workers, futures": _in_uvloop(
                lambda: handwritten_queue(suspend_once)
            ),
            "ours, concurrency 10": _in_uvloop(lambda: ours(suspend_once)),
            "ours, concurrency 100": _in_uvloop(lambda: ours(suspend_once, concurrency=100)),
        },
        rounds=ROUNDS,
    )
    return "\n\n".join(
        [
            "## Dispatch",
            (
                f"`enqueue` to `result()`, {OUTSTANDING:,} jobs outstanding, uvloop, "
                f"{ROUNDS} rounds in turns. {versions('uvloop', 'msgspec', 'aiojobs')}."
            ),
            "No-op:",
            _section(no_op),
            "One suspension (`asyncio.sleep(0)`) per job:",
            _section(suspending),
        ]
    )


def _section(figures: dict[str, list[float]]) -> str:
    baseline = next(iter(figures.values()))
    rows = [
        [name, rate(max(values)), f"{ratio(values, baseline):.2f}x"]
        for name, values in figures.items()
    ]
    return table(["contender", "best, jobs/s", "to gather"], rows)


if __name__ == "__main__":
    print(main())
