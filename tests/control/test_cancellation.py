"""Cancels and deadlines in each state, and attempts that end neither for one nor the other."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.helpers import ROOT, eventually
from worker_runtime import (
    JobCancelled,
    JobContext,
    JobFailed,
    JobInfo,
    JobInterrupted,
    QueueSettings,
    Reason,
    Retry,
    Runtime,
    Settings,
    State,
    UnknownJob,
    task,
)

QUICK = Settings(cancel_grace_s=0.05)


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


class Stubborn:
    """Tasks that do not end when they are told to, until the test lets them."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.cancels = 0
        self.running = 0

    async def coroutine(self) -> str:
        self.running += 1
        while not self.released.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                self.cancels += 1
        self.running -= 1
        return "too late"

    def thread(self) -> str:
        self.running += 1
        self.released.wait(20)
        self.running -= 1
        return "too late"


@pytest.fixture
def stubborn() -> Iterator[Stubborn]:
    made = Stubborn()
    yield made
    made.released.set()


# In each state


@pytest.mark.both_loops
async def test_a_queued_or_scheduled_job_never_runs_once_its_cancel_is_acknowledged() -> None:
    ran: list[str] = []

    async def work(name: str) -> None:
        ran.append(name)

    async with Runtime([work], concurrency=1) as runtime:
        runtime.pause("default")
        queued = await runtime.enqueue(work, "queued")
        scheduled = await runtime.options(delay_s=0.02).enqueue(work, "scheduled")
        kept = await runtime.enqueue(work, "kept")
        assert await runtime.cancel(queued.id, "not needed")
        assert await scheduled.cancel()
        assert (queued.state, scheduled.state) == (State.CANCELLED, State.CANCELLED)
        assert runtime.queue_info("default").waiting == 1
        runtime.resume("default")
        await kept.result(timeout_s=5)
        await asyncio.sleep(0.04)
    assert ran == ["kept"]
    with pytest.raises(JobCancelled, match="was cancelled: not needed"):
        await queued.result()
    with pytest.raises(JobCancelled, match="was cancelled: cancelled before it started"):
        await scheduled.result()


@pytest.mark.both_loops
async def test_a_running_coroutine_is_cancelled() -> None:
    async with Runtime([wait_for_ever], settings=QUICK) as runtime:
        handle = await runtime.enqueue(wait_for_ever)
        await asyncio.sleep(0)
        assert await handle.cancel("stop it")
        assert runtime.doorway.stop_order(handle.job) is not None
        with pytest.raises(JobCancelled, match="stop it"):
            await handle.result(timeout_s=5)
        assert runtime.doorway.stop_order(handle.job) is None
        assert not await handle.cancel()
        assert handle.info().note is None


@pytest.mark.both_loops
async def test_a_job_cancelled_between_its_choice_and_its_start_never_runs() -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("work")

    def in_thread() -> None:
        ran.append("in_thread")

    async with Runtime([work, in_thread], concurrency=1) as runtime:
        for fn in (work, in_thread, work):  # in a new slot, and in an idle one
            handle = await runtime.enqueue(fn)
            assert handle.state is State.RUNNING
            assert await handle.cancel()
            assert await handle.wait(timeout_s=5) is State.CANCELLED
        await (await runtime.enqueue(work)).result(timeout_s=5)
    assert ran == ["work"]


async def test_an_ended_job_cannot_be_cancelled_and_an_unknown_one_is_named() -> None:
    async def work() -> int:
        return 1

    async with Runtime([work]) as runtime:
        handle = await runtime.enqueue(work)
        await handle.result(timeout_s=5)
        assert not await handle.cancel()
        assert handle.state is State.COMPLETED
        with pytest.raises(UnknownJob, match="no job 'nowhere' is kept"):
            await runtime.cancel("nowhere")


async def test_a_job_that_waits_for_its_retry_can_be_cancelled() -> None:
    @task(retry=Retry(delay_s=60))
    async def fail() -> None:
        raise ValueError

    async with Runtime([fail]) as runtime:
        handle = await runtime.enqueue(fail)
        await eventually(lambda: handle.state is State.SCHEDULED)
        assert await handle.cancel()
        assert handle.state is State.CANCELLED


async def test_a_job_cancels_itself_through_the_runtime() -> None:
    made: list[Runtime] = []
    after: list[str] = []

    async def quit_waiting(ctx: JobContext) -> None:
        assert await made[0].cancel(ctx.job_id)
        await asyncio.sleep(60)
        after.append("not reached")

    async def quit_returning(ctx: JobContext) -> str:
        assert await made[0].cancel(ctx.job_id)
        return "value"

    async def innocent() -> str:
        await asyncio.sleep(0)
        return "innocent"

    tasks: list[Callable[..., Any]] = [quit_waiting, quit_returning, innocent]
    async with Runtime(tasks, concurrency=1, settings=QUICK) as runtime:
        made.append(runtime)
        for fn in (quit_waiting, quit_returning):
            handle = await runtime.enqueue(fn)
            assert await handle.wait(timeout_s=5) is State.CANCELLED
        assert await (await runtime.enqueue(innocent)).result(timeout_s=5) == "innocent"
    assert after == []


async def test_a_job_may_clean_up_when_it_is_cancelled() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("closed")

    async with Runtime([work], settings=Settings(cancel_grace_s=5)) as runtime:
        handle = await runtime.enqueue(work)
        await asyncio.sleep(0)
        await handle.cancel()
        assert await handle.wait(timeout_s=5) is State.CANCELLED
    assert cleaned == ["closed"]


async def test_a_job_that_raises_another_error_when_cancelled_was_still_cancelled() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("on the way out") from None

    async with Runtime([work], settings=QUICK) as runtime:
        handle = await runtime.enqueue(work)
        await asyncio.sleep(0)
        await handle.cancel()
        assert await handle.wait(timeout_s=5) is State.CANCELLED


async def test_a_child_that_is_cancelled_by_its_own_job_is_no_cancel_of_the_job() -> None:
    async def work() -> str:
        child = asyncio.ensure_future(asyncio.sleep(60))
        child.cancel()
        try:
            await child
        except asyncio.CancelledError:
            return "went on"
        return "not cancelled"

    async with Runtime([work]) as runtime:
        assert await (await runtime.enqueue(work)).result(timeout_s=5) == "went on"


# Threads


async def test_a_thread_sees_its_cancel_at_its_next_checkpoint() -> None:
    began = threading.Event()

    def work(ctx: JobContext) -> None:
        began.set()
        while True:
            ctx.raise_if_cancelled()
            time.sleep(0.001)

    async with Runtime([work], settings=Settings(cancel_grace_s=10)) as runtime:
        handle = await runtime.enqueue(work)
        await eventually(began.is_set)
        await handle.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            await handle.result(timeout_s=5)
        assert handle.info().note is None


async def test_a_job_in_a_threads_waiting_line_is_cancelled_without_running() -> None:
    release = threading.Event()
    ran: list[str] = []

    def hold() -> None:
        release.wait(20)

    def waiting() -> None:
        ran.append("waiting")

    async with Runtime([hold, waiting], concurrency=3, threads=1) as runtime:
        holding = await runtime.enqueue(hold)
        first, second = await runtime.enqueue(waiting), await runtime.enqueue(waiting)
        await eventually(lambda: runtime.statistics().executors["thread"].waiting == 2)
        assert first.state is State.RUNNING
        await first.cancel()
        assert await first.wait(timeout_s=5) is State.CANCELLED
        assert ran == []
        release.set()
        await holding.result(timeout_s=5)
        await second.result(timeout_s=5)
    assert ran == ["waiting"]


async def test_waiting_for_a_thread_does_not_count_against_the_deadline() -> None:
    release = threading.Event()

    def hold() -> None:
        release.wait(20)

    @task(timeout_s=0.5)
    def limited() -> str:
        return "in time"

    async with Runtime([hold, limited], concurrency=2, threads=1) as runtime:
        await runtime.enqueue(hold)
        handle = await runtime.enqueue(limited)
        await asyncio.sleep(0.6)
        assert handle.state is State.RUNNING
        release.set()
        assert await handle.result(timeout_s=5) == "in time"


# Deadlines


@pytest.mark.both_loops
async def test_an_attempt_that_runs_too_long_is_stopped() -> None:
    @task(timeout_s=0.02)
    async def slow() -> None:
        await asyncio.sleep(60)

    async with Runtime([slow], settings=QUICK) as runtime:
        handle = await runtime.enqueue(slow)
        with pytest.raises(JobFailed, match=r"ran longer than its timeout of 0\.02 s") as caught:
            await handle.result(timeout_s=5)
    assert (caught.value.reason, caught.value.error_type) == (Reason.TIMEOUT, "TimeoutError")


async def test_a_deadline_of_the_settings_holds_for_tasks_without_one() -> None:
    @task(timeout_s=60)
    async def own() -> str:
        await asyncio.sleep(0.05)
        return "own"

    settings = Settings(task_timeout_s=0.02, cancel_grace_s=0.05)
    async with Runtime([wait_for_ever, own], settings=settings) as runtime:
        assert await (await runtime.enqueue(own)).result(timeout_s=5) == "own"
        with pytest.raises(JobFailed, match="timeout"):
            await (await runtime.enqueue(wait_for_ever)).result(timeout_s=5)
        unlimited = await runtime.options(timeout_s=None).enqueue(wait_for_ever)
        await asyncio.sleep(0.05)
        assert unlimited.state is State.RUNNING
        await unlimited.cancel()


@pytest.mark.both_loops
async def test_deadlines_are_kept_in_their_own_order() -> None:
    async with Runtime([wait_for_ever], settings=QUICK) as runtime:
        last, first, second = [
            await runtime.options(timeout_s=timeout_s).enqueue(wait_for_ever)
            for timeout_s in (60, 0.02, 0.5)
        ]
        assert await first.wait(timeout_s=10) is State.FAILED
        assert await second.wait(timeout_s=10) is State.FAILED
        ends = [handle.job.ended_at for handle in (first, second)]
        assert ends == sorted(ends, key=lambda at: at or 0.0)
        assert last.state is State.RUNNING
        await last.cancel()


async def test_a_timeout_is_tried_again_as_often_as_the_retry_says() -> None:
    attempts: list[int] = []

    @task(timeout_s=0.02, retry=Retry(max_attempts=3, delay_s=0, only_for=(TimeoutError,)))
    async def slow(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        await asyncio.sleep(60)

    async with Runtime([slow], settings=QUICK) as runtime:
        handle = await runtime.enqueue(slow)
        assert await handle.wait(timeout_s=5) is State.FAILED
    assert attempts == [1, 2, 3]


async def test_an_own_timeout_error_is_an_error_and_not_a_deadline() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async with Runtime([work]) as runtime:
        handle = await runtime.enqueue(work)
        await handle.wait(timeout_s=5)
        assert handle.info().reason is Reason.ERROR


async def test_a_thread_that_runs_too_long_is_told_to_stop() -> None:
    @task(timeout_s=0.02)
    def slow(ctx: JobContext) -> None:
        while not ctx.cancelled:
            time.sleep(0.001)
        raise JobInterrupted

    async with Runtime([slow], settings=Settings(cancel_grace_s=10)) as runtime:
        handle = await runtime.enqueue(slow)
        await handle.wait(timeout_s=5)
        assert handle.info().reason is Reason.TIMEOUT


# Attempts that do not end


def check_abandoned(info: JobInfo, note: str) -> None:
    assert (info.state, info.note) == (State.CANCELLED, note)


@pytest.mark.both_loops
@pytest.mark.parametrize("where", ["coroutine", "thread"])
async def test_an_attempt_that_ignores_its_cancel_is_given_up_and_replaced(
    where: str, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    fn = getattr(stubborn, where)

    async def fine() -> str:
        return "fine"

    def fine_in_thread() -> str:
        return "fine"

    tasks = [fn, fine, fine_in_thread]
    async with Runtime(tasks, concurrency=1, threads=1, settings=QUICK) as runtime:
        handle = await runtime.enqueue(where)
        await eventually(lambda: stubborn.running == 1)
        with caplog.at_level(logging.WARNING):
            await handle.cancel()
            assert await handle.wait(timeout_s=5) is State.CANCELLED
        check_abandoned(handle.info(), f"abandoned_{where}")
        assert "ignores its stop" in caplog.text
        assert runtime.statistics().abandoned == 1
        # The only slot and the only thread have been replaced.
        assert await (await runtime.enqueue(fine)).result(timeout_s=5) == "fine"
        assert await (await runtime.enqueue(fine_in_thread)).result(timeout_s=5) == "fine"
        stubborn.released.set()
        await eventually(lambda: runtime.statistics().abandoned == 0)
        check_abandoned(handle.info(), f"abandoned_{where}")
        assert handle.job.result is None
        assert runtime.queue_info("default").running == 0


@pytest.mark.parametrize("where", ["coroutine", "thread"])
async def test_abandoned_attempts_are_replaced_only_up_to_their_bound(
    where: str, stubborn: Stubborn
) -> None:
    settings = Settings(cancel_grace_s=0.02, abandoned_max=1)

    async def fine() -> str:
        return "fine"

    tasks = [getattr(stubborn, where), fine]
    async with Runtime(tasks, concurrency=2, threads=2, settings=settings) as runtime:
        for n in range(3):
            handle = await runtime.enqueue(where)
            await eventually(lambda: stubborn.running == n + 1)  # noqa: B023
            await handle.cancel()
            assert await handle.wait(timeout_s=5) is State.CANCELLED
        # Of two slots one was replaced for the first; the second and third keep theirs.
        assert runtime.queue_info("default").running == 2
        starved = await runtime.enqueue(fine)
        await asyncio.sleep(0.02)
        assert starved.state is State.QUEUED
        stubborn.released.set()
        assert await starved.result(timeout_s=5) == "fine"
        await eventually(lambda: runtime.queue_info("default").running == 0)


async def test_an_attempt_that_ignores_its_deadline_is_not_tried_again_while_it_runs(
    stubborn: Stubborn,
) -> None:
    retry = Retry(max_attempts=5, delay_s=0, only_for=(TimeoutError,))
    async with Runtime([stubborn.coroutine], settings=QUICK) as runtime:
        options = runtime.options(timeout_s=0.02, retry=retry)
        handle = await options.enqueue("coroutine")
        assert await handle.wait(timeout_s=5) is State.FAILED
        info = handle.info()
        assert (info.reason, info.note) == (Reason.TIMEOUT, "abandoned_coroutine")
        assert info.attempt == 1
        assert stubborn.running == 1


async def test_jobs_that_wait_for_a_thread_fail_once_none_is_left(stubborn: Stubborn) -> None:
    def fine() -> str:
        return "fine"

    settings = Settings(cancel_grace_s=0.02, abandoned_max=0)
    tasks = [stubborn.thread, fine]
    async with Runtime(tasks, concurrency=3, threads=1, settings=settings) as runtime:
        handle = await runtime.enqueue("thread")
        await eventually(lambda: stubborn.running == 1)
        waiting = await runtime.enqueue(fine)
        await eventually(lambda: runtime.statistics().executors["thread"].waiting == 1)
        await handle.cancel()
        with pytest.raises(JobFailed, match="ExecutorFull: no thread is left: 1 are held"):
            await waiting.result(timeout_s=5)
        with pytest.raises(JobFailed, match="ExecutorFull"):
            await (await runtime.enqueue(fine)).result(timeout_s=5)
        stubborn.released.set()
        await eventually(lambda: runtime.statistics().abandoned == 0)
        assert await (await runtime.enqueue(fine)).result(timeout_s=5) == "fine"


@pytest.mark.both_loops
@pytest.mark.parametrize("where", ["coroutine", "thread"])
async def test_stop_ends_on_time_whatever_ignores_it(where: str, stubborn: Stubborn) -> None:
    runtime = Runtime([getattr(stubborn, where)], concurrency=3, threads=3, settings=QUICK)
    async with runtime:
        handles = [await runtime.enqueue(where) for _ in range(3)]
        await eventually(lambda: stubborn.running == 3)
        await runtime.stop(within_s=0.02)
        assert stubborn.running == 3  # it did not wait for their end
    for handle in handles:
        check_abandoned(handle.info(), f"abandoned_{where}")


PROGRAM = """
import asyncio, sys, time
from worker_runtime import Runtime, Settings

async def swallow():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def hang():
    time.sleep(60)

async def main():
    settings = Settings(cancel_grace_s=0.05, stop_within_s=0.05)
    async with Runtime([swallow, hang], settings=settings) as runtime:
        handles = [await runtime.enqueue(swallow), await runtime.enqueue(hang)]
        await asyncio.sleep(0.05)
    print([handle.info().note for handle in handles])

asyncio.run(main())
print("ended")
"""


def test_a_program_ends_whatever_its_jobs_ignore() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['abandoned_coroutine', 'abandoned_thread']\nended\n"
    assert "Traceback" not in done.stderr
    assert "Task was destroyed" not in done.stderr


async def test_queues_do_not_share_the_slots_that_abandoned_attempts_hold(
    stubborn: Stubborn,
) -> None:
    async def fine() -> str:
        return "fine"

    settings = Settings(cancel_grace_s=0.02, abandoned_max=0)
    queues = [QueueSettings("other", concurrency=1)]
    tasks = [stubborn.coroutine, fine]
    async with Runtime(tasks, concurrency=1, queues=queues, settings=settings) as runtime:
        handle = await runtime.enqueue("coroutine")
        await asyncio.sleep(0)
        await handle.cancel()
        await handle.wait(timeout_s=5)
        stuck = await runtime.enqueue(fine)
        assert await (await runtime.options(queue="other").enqueue(fine)).result(timeout_s=5)
        assert stuck.state is State.QUEUED
