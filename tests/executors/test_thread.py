"""The pool of threads: its bound, its order, what it holds and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from tests.support.helpers import eventually
from worker_runtime import ExecutorStatistics, JobContext, Runtime, Settings, call
from worker_runtime.clock.source import SYSTEM
from worker_runtime.errors import ExecutorFull
from worker_runtime.executors.thread import ThreadExecutor


@pytest.fixture
def pool_threads() -> Callable[[], set[threading.Thread]]:
    """The living threads of the pools that this test made: one of an earlier test may be ending."""
    before = set(threading.enumerate())

    def alive() -> set[threading.Thread]:
        return {
            thread
            for thread in set(threading.enumerate()) - before
            if thread.name.startswith("worker-runtime-")
            and thread.name != "worker-runtime-watchdog"
        }

    return alive


@pytest.mark.both_loops
async def test_no_more_threads_than_the_pool_may_have(
    pool_threads: Callable[[], set[threading.Thread]],
) -> None:
    lock, release = threading.Lock(), threading.Event()
    at_once = at_once_max = 0

    def work(n: int) -> int:
        nonlocal at_once, at_once_max
        with lock:
            at_once += 1
            at_once_max = max(at_once_max, at_once)
        release.wait(10)
        with lock:
            at_once -= 1
        return n

    async with Runtime([work], concurrency=8, threads=3) as runtime:
        handles = await runtime.enqueue_many(call(work, n) for n in range(8))
        await eventually(lambda: at_once == 3)
        assert runtime.statistics().executors["thread"] == ExecutorStatistics(3, 3, 5, 0)
        release.set()
        assert [await handle.result(timeout_s=5) for handle in handles] == list(range(8))
        assert at_once_max == 3
        assert len(pool_threads()) == 3
    await eventually(lambda: not pool_threads())


async def test_jobs_take_threads_in_the_order_they_asked() -> None:
    began: list[int] = []
    release = threading.Event()

    def work(n: int) -> None:
        began.append(n)
        release.wait(10)

    async with Runtime([work], concurrency=6, threads=1) as runtime:
        await runtime.enqueue_many(call(work, n) for n in range(6))
        release.set()
        await runtime.join()
    assert began == list(range(6))


async def test_a_thread_is_made_only_when_none_is_idle() -> None:
    idents: set[int] = set()

    def work() -> None:
        idents.add(threading.get_ident())

    async with Runtime([work], threads=8) as runtime:
        for _ in range(20):
            await (await runtime.enqueue(work)).result(timeout_s=5)
    assert len(idents) == 1


async def test_threads_that_are_not_needed_any_more_end(
    pool_threads: Callable[[], set[threading.Thread]],
) -> None:
    release = threading.Event()

    def work() -> None:
        release.wait(10)

    async with Runtime([work], concurrency=4, threads=4) as runtime:
        pool = runtime.parts.executors["thread"]
        assert isinstance(pool, ThreadExecutor)
        pool._idle_max_s = 0.05
        handles = await runtime.enqueue_many(call(work) for _ in range(4))
        await eventually(lambda: len(pool_threads()) == 4)
        release.set()
        for handle in handles:
            await handle.result(timeout_s=5)
        await eventually(lambda: not pool_threads())
        assert await (await runtime.enqueue(work)).wait(timeout_s=5) == "completed"


async def test_a_waiting_thread_holds_nothing_of_the_job_it_ran() -> None:
    class Big:
        pass

    def work(big: object) -> None:
        pass

    settings = Settings(history_count_max=0)
    async with Runtime([work], settings=settings) as runtime:
        big = Big()
        alive = weakref.ref(big)
        handle = await runtime.enqueue(work, big)
        await handle.result(timeout_s=5)
        # The slot and the thread look at their last job until the next one comes.
        await (await runtime.enqueue(work, None)).result(timeout_s=5)
        del handle, big

        def is_gone() -> bool:
            gc.collect()
            return alive() is None

        await eventually(is_gone)


async def test_progress_from_a_thread_is_read_while_it_runs() -> None:
    reported, release = threading.Event(), threading.Event()

    def work(ctx: JobContext) -> None:
        ctx.report(1, 4, step="a quarter")
        ctx.record_metric("loss", 0.5)
        reported.set()
        release.wait(10)

    async with Runtime([work]) as runtime:
        handle = await runtime.enqueue(work)
        await eventually(reported.is_set)
        progress = handle.info().progress
        assert progress is not None
        assert (progress.percentage, progress.step) == (25.0, "a quarter")
        assert progress.remaining_s is not None
        release.set()
        await handle.result(timeout_s=5)
        assert handle.job.activity is not None
        assert [m.value for m in handle.job.activity.metrics] == [0.5]


async def test_a_closed_pool_takes_no_more_work() -> None:
    executor = ThreadExecutor(SYSTEM, size=1, abandoned_max=1, stop_grace_s=1.0)
    await executor.open()
    await executor.close()
    with pytest.raises(ExecutorFull, match="the threads are closed"):
        executor.start(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_thread_that_outlives_its_loop_ends_quietly(
    pool_threads: Callable[[], set[threading.Thread]], is_closed: bool
) -> None:
    started, release = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(20)

    async def main() -> None:
        settings = Settings(cancel_grace_s=0.01)
        async with Runtime([work], settings=settings) as runtime:
            await runtime.enqueue(work)
            await eventually(started.is_set)
            await runtime.stop(within_s=0)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
        if is_closed:
            loop.close()
        (thread,) = pool_threads()
        release.set()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        loop.close()
