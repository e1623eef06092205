"""The runtime as an application holds it: enqueue, options, look, page, life and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from tests.support.helpers import eventually
from worker_runtime import (
    ConfigurationError,
    InvalidArguments,
    InvalidJob,
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobContext,
    JobFailed,
    Priority,
    QueueFull,
    QueueSettings,
    Reason,
    Retry,
    Runtime,
    Settings,
    ShuttingDown,
    State,
    Unavailable,
    UnknownJob,
    UnknownQueue,
    UnknownTask,
    call,
    task,
)

QUICK = Settings(cancel_grace_s=0.05)


async def double(n: int) -> int:
    return 2 * n


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def fail(text: str = "no") -> None:
    raise ValueError(text)


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    """One slot, room for five, and tasks that return, wait and fail."""
    made = Runtime([double, wait_for_ever, fail], concurrency=1, queue_capacity=5, settings=QUICK)
    async with made:
        try:
            yield made
        finally:
            await made.stop(within_s=0)


# Enqueue


@pytest.mark.both_loops
async def test_a_job_is_accepted_run_and_answered() -> None:
    async with Runtime([double]) as runtime:
        handle = await runtime.enqueue(double, 21)
        assert await handle.result(timeout_s=5) == 42
        info = handle.info()
        assert (info.state, info.attempt, info.task) == (State.COMPLETED, 1, "double")
        assert (info.queue, info.priority) == ("default", "normal")
        assert info.started_at is not None
        assert info.ended_at is not None
        assert info.created_at <= info.started_at <= info.ended_at


async def test_a_job_is_found_by_its_tasks_name(runtime: Runtime) -> None:
    handle = await runtime.enqueue("double", n=4)
    assert await handle.result(timeout_s=5) == 8


async def test_what_is_refused_leaves_no_trace(runtime: Runtime) -> None:
    with pytest.raises(UnknownTask, match="no task 'triple'"):
        await runtime.enqueue("triple", 1)
    with pytest.raises(InvalidArguments, match="task double: argument `n`: expected `int`"):
        await runtime.enqueue(double, "1")  # type: ignore[call-overload]
    with pytest.raises(UnknownQueue, match="no queue 'moon'; queues: default"):
        await runtime.options(queue="moon").enqueue(double, 1)
    with pytest.raises(InvalidJob, match="must match"):
        await runtime.options(job_id="a b").enqueue(double, 1)
    with pytest.raises(InvalidJob, match="must match"):
        await runtime.options(job_id=["a"]).enqueue(double, 1)  # type: ignore[arg-type]
    assert (await runtime.list_jobs()).jobs == []
    assert runtime.queue_info("default").waiting == 0


async def test_options_never_collide_with_a_tasks_own_arguments() -> None:
    async def greedy(  # every word that options or the runtime use for themselves
        task: int, self: int, timeout_s: int, queue: int, job_id: int, args: int, kwargs: int
    ) -> list[int]:
        return [task, self, timeout_s, queue, job_id, args, kwargs]

    async with Runtime([greedy]) as runtime:
        named = {
            "task": 1,
            "self": 2,
            "timeout_s": 3,
            "queue": 4,
            "job_id": 5,
            "args": 6,
            "kwargs": 7,
        }
        handle = await runtime.enqueue(greedy, **named)
        assert await handle.result(timeout_s=5) == [1, 2, 3, 4, 5, 6, 7]
        handle = await runtime.options(timeout_s=9).enqueue(greedy, **named)
        assert await handle.result(timeout_s=5) == [1, 2, 3, 4, 5, 6, 7]
        many = await runtime.enqueue_many([call(greedy, **named)])
        assert await many[0].result(timeout_s=5) == [1, 2, 3, 4, 5, 6, 7]


async def test_many_are_accepted_together_or_not_at_all(runtime: Runtime) -> None:
    handles = await runtime.enqueue_many(call(double, n) for n in range(3))
    assert [await handle.result(timeout_s=5) for handle in handles] == [0, 2, 4]
    with pytest.raises(InvalidArguments):
        await runtime.enqueue_many([call(double, 1), call("double", "x")])
    with pytest.raises(QueueFull):  # five may wait and one may run
        await runtime.enqueue_many(call(double, n) for n in range(7))
    with pytest.raises(InvalidJob, match="job_id names one job"):
        await runtime.options(job_id="x").enqueue_many([call(double, 1)])
    assert await runtime.enqueue_many([]) == []
    assert len((await runtime.list_jobs()).jobs) == 3


async def test_many_must_fit_into_each_of_their_queues() -> None:
    async def other() -> None: ...

    queues = [QueueSettings("small", concurrency=1, capacity=1)]
    async with Runtime([double, task(queue="small")(other)], queues=queues) as runtime:
        runtime.pause("small")
        with pytest.raises(QueueFull, match="queue 'small' is full: 0 jobs wait, 1 may"):
            await runtime.enqueue_many([call(double, 1), call("other"), call("other")])
        assert (await runtime.list_jobs()).jobs == []


# The same id


async def test_the_same_id_and_payload_are_the_same_job(runtime: Runtime) -> None:
    first = await runtime.options(job_id="once").enqueue(double, 1)
    again = await runtime.options(job_id="once", priority=Priority.LOW).enqueue(double, n=1)
    assert first.is_new
    assert await first.result(timeout_s=5) == 2
    positional = await runtime.options(job_id="once").enqueue(double, 1)
    assert not positional.is_new
    assert positional.job is first.job
    assert not again.is_new
    assert len((await runtime.list_jobs()).jobs) == 1


async def test_the_same_id_with_another_payload_is_refused(runtime: Runtime) -> None:
    await runtime.options(job_id="once").enqueue(double, 1)
    with pytest.raises(JobConflict, match="'once' is in use by a job with another payload"):
        await runtime.options(job_id="once").enqueue(double, 2)
    with pytest.raises(JobConflict):
        await runtime.options(job_id="once").enqueue(wait_for_ever)


async def test_arguments_that_cannot_be_compared_count_as_different() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]

    async def take(value: Any) -> None: ...

    async with Runtime([take]) as runtime:
        await runtime.options(job_id="odd").enqueue(take, Odd())
        with pytest.raises(JobConflict):
            await runtime.options(job_id="odd").enqueue(take, Odd())


async def test_generated_ids_sort_in_the_order_of_acceptance() -> None:
    async with Runtime([double], queue_capacity=200) as runtime:
        handles = [await runtime.enqueue(double, n) for n in range(100)]
        handles += await runtime.enqueue_many(call(double, n) for n in range(100))
        ids = [handle.id for handle in handles]
        assert ids == sorted(set(ids))


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay_s": -1}, "delay_s must be seconds, 0 or more and at most 315360000, not '-1'"),
        ({"delay_s": float("nan")}, "delay_s must be seconds"),
        ({"delay_s": 1e12}, "delay_s must be seconds"),
        ({"delay_s": "5"}, "delay_s must be seconds"),
        ({"delay_s": True}, "delay_s must be seconds"),
        ({"delay_s": 1, "at": datetime.now(UTC)}, "give delay_s or at, not both"),
        ({"at": datetime(2026, 1, 1)}, "at must be an aware datetime"),  # noqa: DTZ001
        ({"at": "2026-01-01"}, "at must be an aware datetime, not '2026-01-01'"),
        ({"after": ["an id"]}, "after must be handles of jobs, not 'an id'"),
        ({"after": 7}, "after must be handles of jobs, not 7"),
        ({"timeout_s": 0}, "timeout_s must be seconds, above 0 and at most 1000000000, not '0'"),
        ({"timeout_s": "5"}, "timeout_s must be seconds"),
        ({"timeout_s": float("inf")}, "timeout_s must be seconds"),
        ({"result_ttl_s": -1}, "result_ttl_s must be seconds"),
        ({"result_ttl_s": None}, "result_ttl_s must be seconds"),
        ({"expires_s": 0}, "expires_s must be seconds"),
        ({"retry": 3}, "retry must be a Retry or None, not '3'"),
        ({"priority": 7}, "priority must be a Priority, not 7"),
        ({"label": "x" * 2001}, "label must be text of at most 2000 characters"),
        ({"label": 5}, "label must be text"),
    ],
)
async def test_options_out_of_range_are_refused(
    runtime: Runtime, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        runtime.options(**options)


async def test_a_job_overrides_its_tasks_policy() -> None:
    @task(timeout_s=0.01, retry=Retry(max_attempts=5), result_ttl_s=0.0, queue="slow")
    async def sleepy(ctx: JobContext) -> str | None:
        await asyncio.sleep(0.05)
        return ctx.label

    queues = [QueueSettings("fast")]
    async with Runtime([sleepy], queues=queues, settings=QUICK) as runtime:
        options = runtime.options(
            timeout_s=None,
            retry=None,
            result_ttl_s=100,
            queue="fast",
            label="seen",
            priority=Priority.CRITICAL,
        )
        handle = await options.enqueue(sleepy)
        assert await handle.result(timeout_s=5) == "seen"
        info = (await runtime.find(handle.id)).info()
        assert (info.queue, info.priority, info.label) == ("fast", "critical", "seen")


async def test_delays_count_from_each_enqueue_not_from_the_options() -> None:
    async with Runtime([double]) as runtime:
        later = runtime.options(delay_s=60, expires_s=120)
        one = await later.enqueue(double, 1)
        before = time.time()
        await asyncio.sleep(0.01)
        other = await later.enqueue(double, 1)
        assert other.job.due_at > one.job.due_at
        assert other.job.due_at >= before + 60
        assert other.job.options is not None
        assert one.job.options is not None
        assert other.job.options.expires_at != one.job.options.expires_at


async def test_at_names_a_moment_and_a_past_one_is_now(runtime: Runtime) -> None:
    future = datetime.now(UTC) + timedelta(hours=1)
    handle = await runtime.options(at=future).enqueue(double, 1)
    assert handle.state is State.SCHEDULED
    assert handle.job.due_at == pytest.approx(future.timestamp(), abs=1)
    past = await runtime.options(at=datetime.now(UTC) - timedelta(hours=1)).enqueue(double, 1)
    assert await past.result(timeout_s=5) == 2


# Look


async def test_jobs_are_found_while_they_are_kept() -> None:
    settings = Settings(history_count_max=2)
    async with Runtime([double], settings=settings) as runtime:
        handles = [await runtime.enqueue(double, n) for n in range(3)]
        for handle in handles:
            await handle.result(timeout_s=5)
        assert await (await runtime.find(handles[2].id)).result() == 4
        with pytest.raises(UnknownJob, match=f"no job '{handles[0].id}' is kept"):
            await runtime.find(handles[0].id)
        assert await handles[0].result() == 0  # a handle keeps its own job
        short = await runtime.options(result_ttl_s=0).enqueue(double, 1)
        await short.result(timeout_s=5)
        time.sleep(0.001)
        with pytest.raises(UnknownJob):
            await runtime.find(short.id)


async def test_jobs_are_listed_by_what_they_are_in_pages() -> None:
    async with Runtime([double, fail], concurrency=1) as runtime:
        done = [await runtime.enqueue(double, n) for n in range(5)]
        failed = await runtime.enqueue(fail)
        await failed.wait(timeout_s=5)
        runtime.pause("default")
        waiting = await runtime.enqueue(double, 9)

        async def ids(**filters: Any) -> list[str]:
            return [info.id for info in (await runtime.list_jobs(**filters)).jobs]

        newest_first = [waiting.id, failed.id, *(h.id for h in reversed(done))]
        assert await ids() == newest_first
        assert await ids(state=State.QUEUED) == [waiting.id]
        assert await ids(state=State.FAILED, task="fail", queue="default") == [failed.id]
        assert await ids(queue="none") == []
        seen: list[str] = []
        cursor = None
        while True:
            page = await runtime.list_jobs(limit=3, cursor=cursor)
            seen += [info.id for info in page.jobs]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == newest_first
        for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "9" * 40}):
            with pytest.raises(InvalidJob):
                await runtime.list_jobs(**wrong)


async def test_the_place_in_line_and_the_figures_of_a_queue(runtime: Runtime) -> None:
    running = await runtime.enqueue(wait_for_ever)
    first = await runtime.enqueue(double, 1)
    urgent = await runtime.options(priority=Priority.HIGH).enqueue(double, 2)
    later = await runtime.options(delay_s=60).enqueue(double, 3)
    assert [runtime.position(h.job) for h in (running, urgent, first, later)] == [None, 1, 2, None]
    info = runtime.queue_info("default")
    assert (info.waiting, info.running, info.concurrency, info.capacity) == (3, 1, 1, 5)
    with pytest.raises(UnknownQueue, match="no queue 'moon'; queues: default"):
        runtime.queue_info("moon")


async def test_a_snapshot_can_be_encoded(runtime: Runtime) -> None:
    handle = await runtime.enqueue(fail)
    await handle.wait(timeout_s=5)
    decoded = msgspec.json.decode(msgspec.json.encode(handle.info()))
    assert (decoded["state"], decoded["reason"], decoded["error"]) == ("failed", "error", "no")


# Wait


async def test_waiting_ends_in_time_and_the_job_goes_on(runtime: Runtime) -> None:
    handle = await runtime.enqueue(wait_for_ever)
    with pytest.raises(TimeoutError):
        await handle.result(timeout_s=0.02)
    with pytest.raises(TimeoutError):
        await handle.wait(timeout_s=0)
    assert handle.state is State.RUNNING
    await handle.cancel()
    assert await handle.wait(timeout_s=5) is State.CANCELLED


async def test_a_waiter_that_is_cancelled_leaves_the_job_alone(runtime: Runtime) -> None:
    handle = await runtime.enqueue(wait_for_ever)
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert handle.state is State.RUNNING
    assert not handle.job.waiters


async def test_waiters_are_bounded() -> None:
    settings = Settings(waiters_max=2, cancel_grace_s=0.05)
    async with Runtime([wait_for_ever], settings=settings) as runtime:
        handle = await runtime.enqueue(wait_for_ever)
        waiting = [asyncio.create_task(handle.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="2 callers already wait"):
            await handle.wait()
        await handle.cancel()
        assert await asyncio.gather(*waiting) == [State.CANCELLED] * 2


async def test_a_failure_says_what_went_wrong(runtime: Runtime) -> None:
    handle = await runtime.enqueue(fail, "boom")
    with pytest.raises(JobFailed, match=r"failed \(error\): ValueError: boom") as caught:
        await handle.result(timeout_s=5)
    assert (caught.value.reason, caught.value.error_type) == (Reason.ERROR, "ValueError")
    assert caught.value.traceback is not None
    assert "raise ValueError(text)" in caught.value.traceback
    assert repr(handle) == f"<job {handle.id} fail failed>"


# Again


async def test_a_failed_or_cancelled_job_can_be_run_again(runtime: Runtime) -> None:
    handle = await runtime.enqueue(fail)
    await handle.wait(timeout_s=5)
    again = await runtime.retry(handle.id)
    assert again.job is handle.job
    assert await again.wait(timeout_s=5) is State.FAILED
    assert again.info().attempt == 1
    done = await runtime.enqueue(double, 1)
    await done.wait(timeout_s=5)
    with pytest.raises(InvalidTransition, match="is completed; only failed or cancelled jobs"):
        await runtime.retry(done.id)
    with pytest.raises(UnknownJob):
        await runtime.retry("nowhere")


async def test_a_retry_that_starts_at_once_needs_no_room_in_a_full_queue() -> None:
    async with Runtime([double], concurrency=1, queue_capacity=1) as runtime:
        later = runtime.options(delay_s=60)
        cancelled = await later.enqueue(double, 1)
        await cancelled.cancel()
        await later.enqueue(double, 2)  # the queue is full, and its slot is free
        await runtime.retry(cancelled.id)
        assert await cancelled.result(timeout_s=5) == 2


async def test_a_job_that_runs_again_waits_at_the_end_of_its_line(runtime: Runtime) -> None:
    failed = await runtime.enqueue(fail)
    await failed.wait(timeout_s=5)
    runtime.pause("default")
    first = await runtime.enqueue(double, 1)
    await runtime.retry(failed.id)
    assert runtime.position(first.job) == 1
    assert runtime.position(failed.job) == 2


# Pause


async def test_a_paused_queue_accepts_and_starts_nothing(runtime: Runtime) -> None:
    runtime.pause("default")
    handle = await runtime.enqueue(double, 1)
    delayed = await runtime.options(delay_s=0.01).enqueue(double, 2)
    await eventually(lambda: delayed.state is State.QUEUED)
    assert handle.state is State.QUEUED
    assert runtime.queue_info("default").paused
    runtime.resume("default")
    assert await handle.result(timeout_s=5) == 2
    assert await delayed.result(timeout_s=5) == 4
    for change in (runtime.pause, runtime.resume):
        with pytest.raises(UnknownQueue):
            change("moon")


async def test_a_paused_queue_lets_its_running_jobs_end() -> None:
    release = asyncio.Event()

    async def wait() -> str:
        await release.wait()
        return "ended"

    async with Runtime([wait], concurrency=1) as runtime:
        running, waiting = await runtime.enqueue(wait), await runtime.enqueue(wait)
        await asyncio.sleep(0)
        runtime.pause("default")
        release.set()
        assert await running.result(timeout_s=5) == "ended"
        assert waiting.state is State.QUEUED
        runtime.resume("default")
        assert await waiting.result(timeout_s=5) == "ended"


# Life


async def test_nothing_is_accepted_before_the_start_or_after_the_end() -> None:
    runtime = Runtime([double])
    with pytest.raises(ShuttingDown, match="stopping or not started"):
        await runtime.enqueue(double, 1)
    await runtime.stop()  # harmless
    async with runtime:
        assert runtime.is_accepting
        assert await (await runtime.enqueue(double, 1)).result(timeout_s=5) == 2
    assert not runtime.is_accepting
    with pytest.raises(ShuttingDown) as caught:
        await runtime.enqueue(double, 1)
    assert caught.value.retry_after_s > 0
    for refused in (
        runtime.options(priority=Priority.HIGH).enqueue(double, 1),
        runtime.enqueue_many([call(double, 1)]),
    ):
        with pytest.raises(ShuttingDown):
            await refused


async def test_a_runtime_starts_once() -> None:
    async with Runtime([double]) as runtime:
        with pytest.raises(ConfigurationError, match="was started before; make a new one"):
            await runtime.start()
    with pytest.raises(ConfigurationError, match="was started before"):
        await runtime.start()
    await runtime.stop()


async def test_quiet_starts_and_accepts_nothing_and_lets_run_what_runs() -> None:
    release = asyncio.Event()

    async def wait() -> str:
        await release.wait()
        return "ended"

    async with Runtime([wait], concurrency=1) as runtime:
        running, waiting = await runtime.enqueue(wait), await runtime.enqueue(wait)
        runtime.quiet()
        with pytest.raises(ShuttingDown):
            await runtime.enqueue(wait)
        release.set()
        assert await running.result(timeout_s=5) == "ended"
        assert waiting.state == "queued"
    assert waiting.state == "cancelled"


async def test_stop_lets_running_jobs_end_in_time_and_cancels_what_waits() -> None:
    async def work() -> str:
        await asyncio.sleep(0.05)
        return "ended"

    runtime = Runtime([work, double], concurrency=1)
    await runtime.start()
    running = await runtime.enqueue(work)
    queued = await runtime.enqueue(double, 1)
    delayed = await runtime.options(delay_s=60).enqueue(double, 1)
    waiter = asyncio.create_task(queued.result())
    await asyncio.sleep(0)
    await runtime.stop(within_s=5)
    assert await running.result() == "ended"
    for handle in (queued, delayed):
        with pytest.raises(JobCancelled, match="the worker stopped before it started"):
            await handle.result()
    with pytest.raises(JobCancelled):
        await waiter
    assert runtime.queue_info("default").waiting == 0
    await runtime.stop()


async def test_stop_interrupts_what_does_not_end_in_time() -> None:
    async with Runtime([wait_for_ever], settings=QUICK) as runtime:
        handle = await runtime.enqueue(wait_for_ever)
        await asyncio.sleep(0)
        await runtime.stop(within_s=0.02)
    info = handle.info()
    assert (info.state, info.reason) == (State.CANCELLED, None)
    assert info.error == "the worker stopped"


async def test_a_job_that_fails_while_stopping_is_not_tried_again() -> None:
    async def work() -> None:
        await asyncio.sleep(0.02)
        raise ValueError

    retry = Retry(max_attempts=5, delay_s=0)
    async with Runtime([task(retry=retry)(work)]) as runtime:
        handle = await runtime.enqueue(work)
        await asyncio.sleep(0)
        await runtime.stop(within_s=5)
    assert handle.state is State.CANCELLED
    assert handle.info().attempt == 1


async def test_two_that_stop_at_once_both_return() -> None:
    async with Runtime([wait_for_ever], settings=QUICK) as runtime:
        handle = await runtime.enqueue(wait_for_ever)
        await asyncio.wait_for(asyncio.gather(runtime.stop(10), runtime.stop(0.01)), 5)
    assert handle.state is State.CANCELLED


async def test_a_job_that_stops_its_own_runtime_does_not_hang_it() -> None:
    made: list[Runtime] = []

    async def stop_all() -> None:
        await made[0].stop(within_s=0.01)

    async with Runtime([stop_all], settings=QUICK) as runtime:
        made.append(runtime)
        handle = await runtime.enqueue(stop_all)
        assert await handle.wait(timeout_s=5) is State.CANCELLED
    assert not runtime.is_accepting


async def test_drain_runs_what_waits_and_accepts_nothing_new() -> None:
    async with Runtime([double], concurrency=1) as runtime:
        queued = [await runtime.enqueue(double, n) for n in range(5)]
        soon = await runtime.options(delay_s=0.02).enqueue(double, 9)
        late = await runtime.options(delay_s=60).enqueue(double, 9)
        assert await runtime.drain(within_s=5)
        assert {handle.state for handle in (*queued, soon)} == {State.COMPLETED}
        assert late.state is State.SCHEDULED
        with pytest.raises(ShuttingDown):
            await runtime.enqueue(double, 1)


async def test_drain_gives_up_in_time() -> None:
    async with Runtime([wait_for_ever], settings=QUICK) as runtime:
        await runtime.enqueue(wait_for_ever)
        assert not await runtime.drain(within_s=0.02)
        await runtime.stop(within_s=0)


async def test_join_waits_for_everything_also_for_what_expires() -> None:
    async with Runtime([double], concurrency=1) as runtime:
        done = await runtime.enqueue(double, 1)
        expired = await runtime.options(delay_s=0.02, expires_s=0.01).enqueue(double, 1)
        await asyncio.wait_for(runtime.join(), 5)
        assert done.state is State.COMPLETED
        with pytest.raises(JobFailed, match="expired"):
            await expired.result()
        assert expired.info().attempt == 0


# Lifespan


async def test_the_lifespans_value_reaches_the_tasks() -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(runtime: Runtime) -> AsyncIterator[dict[str, str]]:
        order.append("open")
        yield {"database": "connected"}
        order.append("close")

    async def read(ctx: JobContext) -> str:
        order.append("run")
        return str(ctx.state["database"])

    async with Runtime([read], lifespan=lifespan) as runtime:
        assert await (await runtime.enqueue(read)).result(timeout_s=5) == "connected"
    assert order == ["open", "run", "close"]


async def test_a_lifespan_that_cannot_open_ends_the_start() -> None:
    @asynccontextmanager
    async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    runtime = Runtime([double], lifespan=lifespan)
    with pytest.raises(ConnectionError, match="no database"):
        await runtime.start()
    with pytest.raises(ShuttingDown):
        await runtime.enqueue(double, 1)
    await runtime.stop()


async def test_a_lifespan_that_cannot_close_says_so_and_everything_else_is_closed() -> None:
    @asynccontextmanager
    async def lifespan(runtime: Runtime) -> AsyncIterator[None]:
        yield
        raise ConnectionError("lost")

    runtime = Runtime([double], lifespan=lifespan)
    await runtime.start()
    async with runtime.subscribe() as events:
        with pytest.raises(ConnectionError, match="lost"):
            await runtime.stop()
        assert [event async for event in events] == []
    assert not runtime.is_accepting


# Where it lives


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_is_embedded_in_a_program_of_its_own(
    run: Callable[[Coroutine[Any, Any, int]], int],
) -> None:
    async def main() -> int:
        async with Runtime([double]) as runtime:
            handles = await runtime.enqueue_many(call(double, n) for n in range(50))
            return sum([await handle.result(timeout_s=5) for handle in handles])

    assert run(main()) == 2450


async def test_two_runtimes_share_a_loop_and_nothing_else() -> None:
    async with (
        Runtime([double], concurrency=1) as one,
        Runtime([double], concurrency=1) as other,
    ):
        one.pause("default")
        waiting = await one.options(job_id="x").enqueue(double, 1)
        assert await (await other.options(job_id="x").enqueue(double, 2)).result(timeout_s=5) == 4
        assert waiting.state is State.QUEUED
        one.resume("default")
        assert await waiting.result(timeout_s=5) == 2
        assert [definition.tally.completed for definition in one.tasks] == [1]


async def test_a_job_enqueues_another_and_awaits_it() -> None:
    made: list[Runtime] = []

    async def outer(n: int) -> int:
        inner = await made[0].enqueue(double, n)
        return 1 + await inner.result(timeout_s=5)

    async with Runtime([outer, double], concurrency=2) as runtime:
        made.append(runtime)
        assert await (await runtime.enqueue(outer, 4)).result(timeout_s=5) == 9


def test_a_store_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match=r"store must be a URL .* not PosixPath"):
        Runtime([], store=Path("jobs.db"))  # type: ignore[arg-type]
