"""The pool of threads: its bound, its order, what it holds and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from tests.helpers import eventually
from worker_runtime import JobContext, Runtime, Settings, call
from worker_runtime.errors import ExecutorFull
from worker_runtime.executors.local import ThreadExecutor


def threads_of_pools() -> int:
    names = [thread.name for thread in threading.enumerate()]
    return sum(
        name.startswith("worker-runtime-") and name != "worker-runtime-watchdog" for name in names
    )


@pytest.mark.both_loops
async def test_no_more_threads_than_the_pool_may_have() -> None:
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

    before = threads_of_pools()
    async with Runtime([work], concurrency=8, threads=3) as runtime:
        handles = await runtime.enqueue_many(call(work, n) for n in range(8))
        await eventually(lambda: at_once == 3)
        assert runtime.parts.executors["thread"].statistics() == {
            "size": 3,
            "busy": 3,
            "waiting": 5,
            "abandoned": 0,
        }
        release.set()
        assert [await handle.result(timeout_s=5) for handle in handles] == list(range(8))
        assert at_once_max == 3
    await eventually(lambda: threads_of_pools() == before)


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


async def test_threads_that_are_not_needed_any_more_end() -> None:
    release = threading.Event()

    def work() -> None:
        release.wait(10)

    before = threads_of_pools()
    async with Runtime([work], concurrency=4, threads=4) as runtime:
        pool = runtime.parts.executors["thread"]
        assert isinstance(pool, ThreadExecutor)
        pool._idle_max_s = 0.05
        handles = await runtime.enqueue_many(call(work) for _ in range(4))
        await eventually(lambda: threads_of_pools() == before + 4)
        release.set()
        for handle in handles:
            await handle.result(timeout_s=5)
        await eventually(lambda: threads_of_pools() == before)
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
        await asyncio.sleep(0.01)
        gc.collect()
        assert alive() is None


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
    executor = ThreadExecutor(size=1, abandoned_max=1, stop_grace_s=1.0)
    await executor.open()
    await executor.close()
    with pytest.raises(ExecutorFull, match="the threads are closed"):
        executor.start(object())  # type: ignore[arg-type]


def test_a_thread_that_outlives_its_loop_ends_quietly() -> None:
    release = threading.Event()
    before = threads_of_pools()

    def work() -> None:
        release.wait(10)

    async def main() -> None:
        settings = Settings(cancel_grace_s=0.01)
        async with Runtime([work], settings=settings) as runtime:
            await runtime.enqueue(work)
            await asyncio.sleep(0.01)
            await runtime.stop(within_s=0)

    asyncio.run(main())
    assert threads_of_pools() == before + 1
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("worker-runtime-"):
            thread.join(5)
    assert threads_of_pools() == before
