"""Which job starts when, how many at a time, and that a slot outlives whatever a job does to it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import time
import weakref
from typing import Any

import pytest

import worker_runtime.engine.dispatcher
from tests.support import process_tasks
from tests.support.clocks import SetClock, assembled_with
from tests.support.helpers import eventually
from worker_runtime import (
    Event,
    JobFailed,
    Missed,
    Priority,
    QueueFull,
    QueueSettings,
    Reason,
    RunAgain,
    Runtime,
    Settings,
    State,
    call,
    task,
)
from worker_runtime.model.tasks.policy import RunIn

QUICK = Settings(cancel_grace_s=0.05)


class Recorder:
    """A task that records which jobs began, in order, and how many ran at a time."""

    def __init__(self) -> None:
        self.began: list[Any] = []
        self.at_once = 0
        self.at_once_max = 0
        self.release = asyncio.Event()

    async def instant(self, name: object) -> None:
        self.began.append(name)

    async def held(self, name: object) -> None:
        self.began.append(name)
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await self.release.wait()
        finally:
            self.at_once -= 1


# Order


@pytest.mark.both_loops
async def test_strict_priorities_and_first_in_first_out_within_one() -> None:
    recorder = Recorder()
    async with Runtime([recorder.instant], concurrency=1) as runtime:
        runtime.pause("default")
        for round_ in range(3):
            for priority in Priority:
                options = runtime.options(priority=priority)
                await options.enqueue(recorder.instant, (priority, round_))
        runtime.resume("default")
        await runtime.join()
    assert recorder.began == [(p, round_) for p in sorted(Priority) for round_ in range(3)]


async def test_a_task_has_a_priority_of_its_own() -> None:
    began: list[str] = []

    @task(priority=Priority.LOW)
    async def low() -> None:
        began.append("low")

    @task(priority=Priority.CRITICAL)
    async def critical() -> None:
        began.append("critical")

    async with Runtime([low, critical], concurrency=1) as runtime:
        runtime.pause("default")
        await runtime.enqueue(low)
        await runtime.enqueue(critical)
        runtime.resume("default")
        await runtime.join()
    assert began == ["critical", "low"]


async def test_with_aging_low_priority_does_not_starve() -> None:
    recorder = Recorder()
    queues = [QueueSettings("default", aging_s=0.01)]
    async with Runtime([recorder.instant], concurrency=1, queues=queues) as runtime:
        runtime.pause("default")
        await runtime.options(priority=Priority.LOW).enqueue(recorder.instant, "low")
        await asyncio.sleep(0.05)
        await runtime.options(priority=Priority.HIGH).enqueue(recorder.instant, "high")
        runtime.resume("default")
        await runtime.join()
    assert recorder.began == ["low", "high"]


# How many


async def test_each_queue_has_a_concurrency_and_capacity_of_its_own() -> None:
    recorder = Recorder()
    queues = [
        QueueSettings("wide", concurrency=3, capacity=2),
        QueueSettings("narrow", concurrency=1, capacity=1),
    ]
    async with Runtime([recorder.held], queues=queues) as runtime:
        wide, narrow = runtime.options(queue="wide"), runtime.options(queue="narrow")
        for n in range(5):
            await wide.enqueue(recorder.held, n)
        for n in range(2):
            await narrow.enqueue(recorder.held, n)
        for full in (wide, narrow):
            with pytest.raises(QueueFull, match="is full"):
                await full.enqueue(recorder.held, 9)
        await eventually(lambda: recorder.at_once == 4)
        infos = {info.name: (info.running, info.waiting) for info in runtime.queue_infos()}
        assert infos == {"wide": (3, 2), "narrow": (1, 1), "default": (0, 0)}
        recorder.release.set()
        await runtime.join()
    assert recorder.at_once_max == 4
    assert len(recorder.began) == 7


async def test_delayed_jobs_and_a_paused_queue_use_up_capacity() -> None:
    recorder = Recorder()
    async with Runtime([recorder.instant], concurrency=5, queue_capacity=2) as runtime:
        later = runtime.options(delay_s=60)
        await later.enqueue(recorder.instant, 1)
        await later.enqueue(recorder.instant, 2)
        with pytest.raises(QueueFull):
            await later.enqueue(recorder.instant, 3)
        # One that starts at once does not wait, so that it needs no room.
        await (await runtime.enqueue(recorder.instant, 4)).result(timeout_s=5)
        runtime.pause("default")
        with pytest.raises(QueueFull):
            await runtime.enqueue(recorder.instant, 5)


async def test_more_jobs_than_a_slot_takes_in_one_turn_let_others_run() -> None:
    recorder = Recorder()
    async with Runtime([recorder.instant], concurrency=1, queue_capacity=10_000) as runtime:
        runtime.pause("default")
        await runtime.enqueue_many(call(recorder.instant, n) for n in range(5000))
        runtime.resume("default")
        turns = 0
        while len(recorder.began) < 5000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 20


# Delays and clocks


@pytest.mark.both_loops
async def test_delayed_jobs_start_in_order_of_their_due_time_and_not_before() -> None:
    began: list[tuple[int, float]] = []

    async def note(n: int) -> None:
        began.append((n, time.time()))

    async with Runtime([note], concurrency=1) as runtime:
        handles = {
            n: await runtime.options(delay_s=delay_s).enqueue(note, n)
            for n, delay_s in ((1, 0.06), (2, 0.02), (3, 0.04))
        }
        assert {handle.state for handle in handles.values()} == {State.SCHEDULED}
        await asyncio.wait_for(runtime.join(), 5)
    assert [n for n, _ in began] == [2, 3, 1]
    assert all(at >= handles[n].job.due_at for n, at in began)


async def test_a_clock_set_forward_makes_delayed_jobs_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_runtime.engine.dispatcher, "_TIMER_MAX_S", 0.02)
    clock = SetClock()
    recorder = Recorder()
    with assembled_with(clock):
        made = Runtime([recorder.instant])
    async with made as runtime:
        handle = await runtime.options(delay_s=3600).enqueue(recorder.instant, 1)
        await asyncio.sleep(0.05)
        assert handle.state is State.SCHEDULED
        clock.ahead_s = 3601
        assert await handle.wait(timeout_s=5) is State.COMPLETED


async def test_a_clock_set_back_delays_no_job_that_is_not_delayed() -> None:
    clock = SetClock()

    @task(timeout_s=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)

    recorder = Recorder()
    with assembled_with(clock):
        made = Runtime([recorder.instant, slow], settings=QUICK)
    async with made as runtime:
        first = await runtime.enqueue(recorder.instant, 1)
        await first.result(timeout_s=5)
        clock.ahead_s = -7200
        clock.adjust()
        second = await runtime.enqueue(recorder.instant, 2)
        await second.result(timeout_s=5)
        assert first.id < second.id
        info = second.info()
        assert info.started_at is not None
        assert info.ended_at is not None
        assert info.created_at <= info.started_at <= info.ended_at
        with pytest.raises(JobFailed, match="timeout"):  # deadlines are monotonic
            await (await runtime.enqueue(slow)).result(timeout_s=5)


async def test_a_job_that_waited_past_its_expiry_never_starts() -> None:
    recorder = Recorder()
    async with Runtime([recorder.held, recorder.instant], concurrency=1) as runtime:
        await runtime.enqueue(recorder.held, "first")
        expiring = await runtime.options(expires_s=0.01).enqueue(recorder.instant, "never")
        patient = await runtime.options(expires_s=60).enqueue(recorder.instant, "in time")
        await asyncio.sleep(0.02)
        recorder.release.set()
        with pytest.raises(JobFailed, match=r"which passed at \d{4}-\d\d-\d\dT") as caught:
            await expiring.result(timeout_s=5)
        assert caught.value.reason == Reason.EXPIRED
        await patient.result(timeout_s=5)
    assert recorder.began == ["first", "in time"]


# Fairness


async def test_a_task_that_asks_again_at_once_lets_its_equals_run() -> None:
    began: list[str] = []

    async def poll() -> RunAgain | None:
        began.append("poll")
        return RunAgain() if began.count("poll") < 5 else None

    async def other() -> None:
        began.append("other")

    async with Runtime([poll, other], concurrency=1) as runtime:
        runtime.pause("default")
        await runtime.enqueue(poll)
        await runtime.enqueue(other)
        runtime.resume("default")
        await runtime.join()
    assert began == ["poll", "other", "poll", "poll", "poll", "poll"]


# Slots


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


@pytest.mark.both_loops
async def test_context_variables_do_not_leak_between_jobs() -> None:
    async def change(n: int) -> str:
        found = variable.get()
        variable.set(f"job {n}")
        await asyncio.sleep(0)
        return f"{found}, {variable.get()}"

    async with Runtime([change], concurrency=2) as runtime:
        handles = await runtime.enqueue_many(call(change, n) for n in range(20))
        found = [await handle.result(timeout_s=5) for handle in handles]
    assert found == [f"clean, job {n}" for n in range(20)]
    assert variable.get() == "clean"


async def test_a33d_a_variable_set_to_an_equal_value_does_not_leak_either() -> None:
    seen: contextvars.ContextVar[Any] = contextvars.ContextVar("seen")

    async def change(ours: Any) -> bool:
        is_clean = seen.get() is of_the_application
        seen.set(ours)
        return is_clean

    of_the_application: list[int] = []
    token = seen.set(of_the_application)
    try:
        runtime = Runtime([change], concurrency=1)
    finally:
        seen.reset(token)
    async with runtime:
        for ours in ([], [], of_the_application, []):
            assert await (await runtime.enqueue(change, ours)).result(timeout_s=5)


async def test_jobs_see_the_context_that_the_runtime_was_made_in() -> None:
    async def read() -> str:
        return variable.get()

    token = variable.set("of the application")
    try:
        runtime = Runtime([read])
    finally:
        variable.reset(token)
    async with runtime:
        assert await (await runtime.enqueue(read)).result(timeout_s=5) == "of the application"


async def test_a_variable_that_cannot_be_compared_ends_only_its_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("not comparable")

        __hash__ = None  # type: ignore[assignment]

    odd: contextvars.ContextVar[object] = contextvars.ContextVar("odd")

    async def change() -> str:
        odd.set(Odd())
        return "done"

    token = odd.set(Odd())
    try:
        runtime = Runtime([change], concurrency=1)
    finally:
        odd.reset(token)
    async with runtime:
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                assert await (await runtime.enqueue(change)).result(timeout_s=5) == "done"
            await asyncio.wait_for(runtime.join(), 5)
        assert runtime.queue_info("default").running == 0


@pytest.mark.both_loops
async def test_a_job_that_cancels_every_task_takes_no_other_job_with_it() -> None:
    async def vandal() -> None:
        for running in asyncio.all_tasks():
            if (running.get_name() or "").startswith("slot:"):
                running.cancel()

    async def innocent(n: int) -> int:
        return n

    async with Runtime([vandal, innocent], concurrency=4, queue_capacity=100) as runtime:
        idle = [await runtime.enqueue(innocent, n) for n in range(4)]  # leaves idle slots behind
        for handle in idle:
            await handle.result(timeout_s=5)
        for _ in range(5):
            await (await runtime.enqueue(vandal)).wait(timeout_s=5)
            # Some start in slots that are being cancelled, some in slots that are new.
            handles = await runtime.enqueue_many(call(innocent, n) for n in range(10))
            answers = [await handle.result(timeout_s=5) for handle in handles]
            assert answers == list(range(10))
        await asyncio.wait_for(runtime.join(), 5)
        assert runtime.queue_info("default").running == 0


async def test_a_slot_that_is_cancelled_before_it_begins_does_not_lose_its_job() -> None:
    async def work() -> str:
        return "done"

    async with Runtime([work], concurrency=1) as runtime:
        handle = await runtime.enqueue(work)
        assert handle.state is State.RUNNING  # chosen, and its slot's task has not run yet
        slot = runtime.parts.dispatcher.slot_of(handle.job)
        assert slot is not None
        assert slot.runner is not None
        slot.runner.cancel()
        assert await handle.result(timeout_s=5) == "done"
        assert handle.info().attempt == 1


async def test_an_idle_slot_that_is_cancelled_as_it_gets_a_job_runs_it() -> None:
    async def work() -> int:
        current = asyncio.current_task()
        assert current is not None
        return current.cancelling()

    async with Runtime([work], concurrency=1) as runtime:
        first = await runtime.enqueue(work)
        await first.result(timeout_s=5)
        (slot,) = runtime.parts.lanes["default"].idle
        assert slot.runner is not None
        for cancel_first in (True, False):
            if cancel_first:
                slot.runner.cancel()
            handle = await runtime.enqueue(work)
            if not cancel_first:
                slot.runner.cancel()
            assert await handle.result(timeout_s=5) == 0
            await asyncio.wait_for(runtime.join(), 5)


async def test_a_loop_that_ends_without_stop_starts_no_further_jobs() -> None:
    began: list[int] = []

    async def hold(n: int) -> None:
        began.append(n)
        await asyncio.Event().wait()

    runtime = Runtime([hold], concurrency=1)
    await runtime.start()
    for n in range(3):
        await runtime.enqueue(hold, n)
    await eventually(lambda: began)
    (slot,) = runtime.parts.lanes["default"].running
    assert slot.runner is not None
    coroutine = slot.runner.get_coro()
    assert coroutine is not None
    coroutine.close()  # what the collector does with the coroutine of a loop that is gone
    assert began == [0]
    slot.runner.cancel()
    await asyncio.wait([slot.runner])
    gc.collect()
    await runtime.stop(within_s=0)


@pytest.mark.parametrize("run_in", ["loop", "thread", "process"])
async def test_nothing_that_is_idle_keeps_the_last_result(run_in: RunIn) -> None:
    """A33c: a result lives as long as its job is kept, not until its slot, thread or child is
    given another."""

    async def in_loop(value: set[int]) -> set[int]:
        return set(value)

    def in_thread(value: set[int]) -> set[int]:
        return set(value)

    functions = {"loop": in_loop, "thread": in_thread, "process": process_tasks.echo}
    echo = task(name="echo", run_in=run_in)(functions[run_in])
    async with Runtime([echo], concurrency=1) as runtime:

        async def run_and_delete() -> weakref.ref[set[int]]:
            handle = await runtime.enqueue("echo", {1, 2})
            result = weakref.ref(await handle.result(timeout_s=20))
            await eventually(lambda: runtime.parts.lanes["default"].idle)
            await runtime.delete(handle.id)
            return result

        result = await run_and_delete()
        gc.collect()
        assert result() is None


# Events


async def test_every_transition_is_told_once_and_in_order() -> None:
    attempts = 0

    async def third_time_lucky() -> RunAgain | None:
        nonlocal attempts
        attempts += 1
        return RunAgain(0.3 if attempts == 1 else 0) if attempts < 3 else None

    async with Runtime([third_time_lucky]) as runtime, runtime.subscribe() as events:
        # Long enough that even a slow machine sees it wait.
        plain = await runtime.options(delay_s=0.3).enqueue(third_time_lucky)
        await plain.result(timeout_s=10)
        seen: list[Event | Missed] = []
        while not seen or not isinstance(seen[-1], Event) or seen[-1].state != "completed":
            seen.append(await anext(events))
        told = [event.state for event in seen if isinstance(event, Event)]
        # In the queue, or at once: each time the job waits it is told why, and that it runs.
        assert told == [
            State.SCHEDULED,
            State.QUEUED,
            State.RUNNING,
            State.SCHEDULED,
            State.QUEUED,
            State.RUNNING,
            State.QUEUED,
            State.RUNNING,
            State.COMPLETED,
        ]
        times = [event.at for event in seen if isinstance(event, Event)]
        assert times == sorted(times)
