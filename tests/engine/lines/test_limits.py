"""Limits per queue, task and key: how many run at a time, how many start in a time, fair turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clocks import SetClock, StillClock, assembled_with
from tests.support.helpers import eventually
from tests.support.jobs import make_job
from tests.support.steps import steps_of
from worker_runtime import (
    ConfigurationError,
    InvalidJob,
    Limit,
    Priority,
    QueueSettings,
    Runtime,
    Settings,
    State,
    call,
    task,
)
from worker_runtime.clock.source import SYSTEM
from worker_runtime.engine.lines import limits as limits_module
from worker_runtime.engine.lines import priority_queue as priority_queue_module
from worker_runtime.engine.lines import usage as usage_module
from worker_runtime.engine.lines.limits import LimitedQueue, Limits
from worker_runtime.engine.lines.priority_queue import PriorityQueue
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.definition import TaskDefinition, define
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.tasks.policy import RunIn


class Crowd:
    """A task whose attempts count themselves, in all and per key, until the gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []

    def task(self, name: str = "work", **policy: Any) -> Callable[..., Any]:
        @task(name=name, **policy)
        async def work(key: str = "") -> None:
            self.order.append(key)
            self.running.update([key, "all"])
            self.most |= self.running
            try:
                await self.gate.wait()
                await asyncio.sleep(0)
            finally:
                self.running.subtract([key, "all"])

        return work


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


async def test_a_task_runs_so_often_at_a_time(crowd: Crowd) -> None:
    limited = crowd.task(limit=Limit(concurrency=2))
    async with Runtime([limited], concurrency=8) as runtime:
        handles = [await runtime.enqueue("work") for _ in range(9)]
        await eventually(lambda: crowd.running["all"] == 2)
        crowd.gate.set()
        await asyncio.gather(*(handle.result(timeout_s=5) for handle in handles))
        assert crowd.most["all"] == 2


async def test_the_limit_of_one_task_holds_up_no_other(crowd: Crowd) -> None:
    limited, free = crowd.task(limit=Limit(concurrency=1)), crowd.task("free")
    async with Runtime([limited, free], concurrency=3) as runtime:
        for _ in range(5):
            await runtime.enqueue("work", "limited")
        await runtime.enqueue("free", "free")
        await eventually(lambda: crowd.running["free"] == 1)
        assert crowd.running["limited"] == 1
        crowd.gate.set()
        await runtime.join()
        assert crowd.most["limited"] == 1


async def test_a_limit_counts_across_queues(crowd: Crowd) -> None:
    limited = crowd.task(limit=Limit(concurrency=1))
    queues = [QueueSettings("one"), QueueSettings("two")]
    async with Runtime([limited], concurrency=4, queues=queues) as runtime:
        for name in ("one", "two", "one", "two"):
            await runtime.options(queue=name).enqueue("work", name)
        crowd.gate.set()
        await runtime.join()  # the end of one lets the other queue go on
        assert crowd.most["all"] == 1
        assert sorted(crowd.order) == ["one", "one", "two", "two"]


async def test_a_queue_limits_each_key(crowd: Crowd) -> None:
    queues = [QueueSettings("default", per_key=Limit(concurrency=1), limit=Limit(concurrency=3))]
    async with Runtime([crowd.task()], concurrency=8, queues=queues) as runtime:
        for key in "aaabbbccdd":
            await runtime.options(key=key).enqueue("work", key)
        await eventually(lambda: crowd.running["all"] == 3)
        assert crowd.running == Counter(a=1, b=1, c=1, all=3)
        crowd.gate.set()
        await runtime.join()
        assert crowd.most == Counter(a=1, b=1, c=1, d=1, all=3)


async def test_jobs_without_a_key_have_no_limit_per_key(crowd: Crowd) -> None:
    async with Runtime([crowd.task(per_key=Limit(concurrency=1))], concurrency=4) as runtime:
        for _ in range(4):
            await runtime.enqueue("work")
        await eventually(lambda: crowd.running["all"] == 4)
        crowd.gate.set()


async def test_keys_take_turns(crowd: Crowd) -> None:
    async with Runtime([crowd.task(per_key=Limit(concurrency=1))], concurrency=1) as runtime:
        runtime.pause("default")
        for key in "aaaaaaabbc":
            await runtime.options(key=key).enqueue("work", key)
        crowd.gate.set()
        runtime.resume("default")
        await runtime.join()
        assert "".join(crowd.order) == "abcabaaaaa"


@pytest.mark.parametrize("run_in", ["loop", "thread"])
async def test_a_rate_is_never_exceeded_in_any_window(run_in: RunIn) -> None:
    """A19."""
    starts: list[float] = []

    async def in_loop() -> None:
        starts.append(time.monotonic())

    def in_thread() -> None:
        starts.append(time.monotonic())

    function = in_loop if run_in == "loop" else in_thread
    limited = task(name="limited", run_in=run_in, limit=Limit(rate=5, per_s=0.4))(function)
    async with Runtime([limited], concurrency=8) as runtime:
        for _ in range(20):
            await runtime.enqueue("limited")
        await runtime.join()
    # Counted when the function is called, or handed to its thread, and seen in it a little later.
    assert most_in_a_window(starts, 0.35) == 5
    assert len(starts) == 20


def most_in_a_window(starts: list[float], per_s: float) -> int:
    return max(sum(first <= at < first + per_s for at in starts) for first in starts)


async def test_a_burst_starts_at_once_and_the_rest_one_by_one() -> None:
    starts: list[float] = []

    @task(limit=Limit(rate=10, per_s=1.0, burst=2))
    async def work() -> None:
        starts.append(time.monotonic())

    async with Runtime([work], concurrency=8) as runtime:
        for _ in range(6):
            await runtime.enqueue(work)
        await runtime.join()
    gaps = [at - starts[0] for at in starts]
    # Two at once, then one each 0.1 s. A busy machine may be late, never early.
    assert all(gap >= 0.1 * (n - 1) - 0.01 for n, gap in enumerate(gaps) if n >= 2)


async def test_what_waits_for_a_thread_has_not_started_yet() -> None:
    """A rate counts calls: ten that waited for the only thread do not come together after all."""
    starts: list[float] = []
    gate = threading.Event()

    @task(limit=Limit(rate=2, per_s=0.3))
    def limited() -> None:
        starts.append(time.monotonic())

    @task
    def block() -> None:
        gate.wait(20)

    async with Runtime([limited, block], concurrency=8, threads=1) as runtime:
        await runtime.enqueue(block)
        for _ in range(5):
            await runtime.enqueue(limited)
        await asyncio.sleep(0.7)  # more than two windows, in which nothing can start
        gate.set()
        await runtime.join()
    assert most_in_a_window(starts, 0.25) == 2


async def test_an_attempt_that_never_began_uses_no_rate() -> None:
    """It is cancelled while it waits for a thread."""
    gate = threading.Event()
    ran: list[int] = []

    @task(limit=Limit(rate=1, per_s=3600.0))
    def limited(n: int) -> None:
        ran.append(n)

    @task
    def block() -> None:
        gate.wait(20)

    async with Runtime([limited, block], concurrency=8, threads=1) as runtime:
        blocking = await runtime.enqueue(block)
        first = await runtime.enqueue(limited, 1)
        second = await runtime.enqueue(limited, 2)
        await eventually(lambda: first.state is State.RUNNING)
        assert second.state is State.QUEUED
        assert await first.cancel()
        gate.set()
        await blocking.wait(timeout_s=10)
        assert await second.wait(timeout_s=10) is State.COMPLETED
    assert ran == [2]


async def test_a_clock_that_is_set_back_stops_no_rate(crowd: Crowd) -> None:
    """A13: also while a job waits for it."""
    crowd.gate.set()
    clock = SetClock()
    with assembled_with(clock):
        runtime = Runtime([crowd.task(limit=Limit(rate=2, per_s=0.2))], concurrency=4)
    async with runtime:
        handles = [await runtime.enqueue("work") for _ in range(4)]
        clock.ahead_s = -3600.0
        handles.append(await runtime.enqueue("work"))
        for handle in handles:
            await handle.result(timeout_s=10)


async def test_what_ends_an_attempt_gives_its_place_back(crowd: Crowd) -> None:
    """Failed, cancelled, timed out, expired, abandoned: none leaks a place."""
    stubborn_gate = asyncio.Event()

    @task(limit=Limit(concurrency=1), timeout_s=0.05)
    async def work(how: str = "") -> str:
        if how == "fail":
            raise ValueError(how)
        if how == "hang":
            await asyncio.sleep(60)
        while how == "ignore" and not stubborn_gate.is_set():
            try:
                await stubborn_gate.wait()
            except asyncio.CancelledError:
                continue
        return how

    settings = Settings(cancel_grace_s=0.05, concurrency=4)
    async with Runtime([work], settings=settings) as runtime:
        ended = []
        for how in ("fail", "hang", "ignore"):
            ended.append(await (await runtime.enqueue("work", how)).wait(timeout_s=5))
        assert ended == [State.FAILED] * 3
        running = await runtime.options(timeout_s=None).enqueue("work", "hang")
        await eventually(lambda: running.state is State.RUNNING)
        expired = await runtime.options(expires_s=0.01).enqueue("work")
        withdrawn = await runtime.enqueue("work")
        assert await withdrawn.cancel()
        await asyncio.sleep(0.02)  # the deadline itself
        assert await running.cancel()
        assert await expired.wait(timeout_s=5) is State.FAILED
        assert await (await runtime.enqueue("work", "fine")).result(timeout_s=5) == "fine"
        stubborn_gate.set()


async def test_a_retry_waits_for_the_limit_like_any_other(crowd: Crowd) -> None:
    crowd.gate.set()
    async with Runtime([crowd.task(limit=Limit(concurrency=1))], concurrency=4) as runtime:
        delayed = await runtime.options(delay_s=0.05).enqueue("work", "later")
        first = await runtime.enqueue("work", "now")
        await first.result(timeout_s=5)
        await delayed.result(timeout_s=5)
        assert crowd.order == ["now", "later"]


def test_aging_beside_limits_is_refused(crowd: Crowd) -> None:
    queues = [QueueSettings("default", aging_s=1.0)]
    with pytest.raises(ConfigurationError, match="aging_s does not work beside limits"):
        Runtime([crowd.task(limit=Limit(concurrency=1))], queues=queues)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "rate|concurrency"),
        ({"concurrency": 0}, "concurrency"),
        ({"rate": 0}, "rate"),
        ({"rate": 1, "per_s": 0}, "per_s"),
    ],
)
def test_a_limit_that_cannot_work_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Limit(**wrong)


def test_a_burst_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"burst": 1}, {"concurrency": 1, "burst": 1}, {"rate": 5, "burst": 6}):
        with pytest.raises(ConfigurationError, match="Limit"):
            Limit(**wrong)
    for odd in (2.5, True, "3"):
        for name in ("concurrency", "rate", "burst"):
            with pytest.raises(ConfigurationError, match=f"Limit.{name} must be a whole number"):
                Limit(**{"rate": 5, name: odd})  # type: ignore[arg-type]
    assert Limit(rate=5, burst=5).burst == 5


# Keys take turns where no limit stands, and nobody else pays for it


async def test_keys_take_turns_where_no_limit_stands() -> None:
    """A29: by whichever door the jobs come."""
    order: list[str] = []

    @task
    async def work(key: str) -> None:
        order.append(key)

    async with Runtime([work], concurrency=1) as runtime:
        runtime.pause("default")
        await runtime.options(key="a").enqueue_many(call(work, "a") for _ in range(5))
        await runtime.enqueue(work, "-")
        await runtime.options(key="b").enqueue(work, "b")
        await runtime.options(key="b", label="unlike").enqueue(work, "b")
        runtime.resume("default")
        await runtime.join()
    assert "".join(order) == "a-babaaa"


async def test_keys_take_turns_in_a_later_life(tmp_path: Path) -> None:
    order: list[str] = []

    @task
    async def work(key: str) -> None:
        order.append(key)

    url = f"sqlite:///{tmp_path}/jobs.db"
    for is_first in (True, False):
        runtime = Runtime([work], concurrency=1, store=url)
        runtime.pause("default")
        async with runtime:
            if is_first:
                for key in "aaab":
                    await runtime.options(key=key).enqueue(work, key)
            else:
                runtime.resume("default")
                await runtime.join()
    assert "".join(order) == "abaa"


async def test_only_queues_that_need_it_are_limited() -> None:
    """One limited or keyed task does not make the others' queues dearer."""

    @task(limit=Limit(concurrency=1), queue="limited")
    async def limited() -> None: ...

    @task
    async def free() -> None: ...

    queues = [QueueSettings("keyed"), QueueSettings("other")]
    async with Runtime([limited, free], queues=queues) as runtime:
        await runtime.enqueue(limited)
        await runtime.enqueue(free)
        await runtime.options(queue="keyed", key="a").enqueue(free)
        await runtime.join()
        kinds = {name: type(lane.queue) for name, lane in runtime.parts.lanes.items()}
        assert kinds == {
            "default": PriorityQueue,
            "keyed": LimitedQueue,
            "limited": LimitedQueue,
            "other": PriorityQueue,
        }
        await runtime.options(queue="other").enqueue(limited)
        assert type(runtime.parts.lanes["other"].queue) is LimitedQueue
        await runtime.join()


async def test_a_queue_may_become_limited_while_it_works(crowd: Crowd) -> None:
    free, limited = crowd.task("free"), crowd.task(limit=Limit(concurrency=1), queue="limited")
    async with Runtime([free, limited], concurrency=2) as runtime:
        running = [await runtime.enqueue("free", "free") for _ in range(2)]
        waiting = [await runtime.enqueue("free", "free") for _ in range(3)]
        scheduled = await runtime.options(delay_s=0.05).enqueue("free", "free")
        assert await waiting[1].cancel()
        for _ in range(3):
            await runtime.options(queue="default").enqueue("work", "work")
        assert runtime.queue_info("default").waiting == 6
        crowd.gate.set()
        await runtime.join()
        assert crowd.most["work"] == 1
        assert Counter(crowd.order) == {"free": 5, "work": 3}
        assert {job.state for job in (*running, scheduled)} == {State.COMPLETED}
        assert runtime.queue_info("default").waiting == 0


async def test_a_key_is_refused_where_jobs_age() -> None:
    @task
    async def work() -> None: ...

    queues = [QueueSettings("default", aging_s=1.0)]
    async with Runtime([work], queues=queues) as runtime:
        for options in (runtime.options(key="a"), runtime.options(key="a", delay_s=1)):
            with pytest.raises(InvalidJob, match="key does not work in queue 'default'"):
                await options.enqueue(work)
        with pytest.raises(InvalidJob, match="key does not work"):
            await runtime.options(key="a").enqueue_many([call(work)])
        await (await runtime.enqueue(work)).result(timeout_s=5)


# The queue itself


class Line:
    """A queue under limits, its clock, and tasks with limits of their own."""

    def __init__(self, whole: Limit | None = None, per_key: Limit | None = None) -> None:
        self.clock = StillClock(1000.0)
        self.limits = Limits({"default": (whole, per_key)}, self.clock)
        self.queue = LimitedQueue(self.limits)

    def job(self, key: str | None = None, task: TaskDefinition | None = None, **fields: Any) -> Job:
        job = make_job(options=JobOptions(key=key), **fields)
        if task is not None:
            job.task = task
        return job

    def push(self, *args: Any, **fields: Any) -> Job:
        job = self.job(*args, **fields)
        self.queue.push(job)
        return job

    def pop(self) -> Job | None:
        """The next job, whose function is called at once."""
        job = self.queue.pop_nowait()
        if job is not None:
            self.queue.began(job)
        return job

    def run(self) -> Job | None:
        job = self.pop()
        if job is not None:
            self.queue.release(job)
        return job


def definition(name: str, limit: Limit | None = None, per_key: Limit | None = None) -> Any:
    @task(name=name, limit=limit, per_key=per_key)
    async def work() -> None: ...

    return define(work)


ONE = Limit(concurrency=1)


def test_priorities_stay_strict_among_what_may_start() -> None:
    line = Line(per_key=ONE)
    low = line.push("a", priority=Priority.LOW)
    high = line.push("a", priority=Priority.HIGH)
    other = line.push("b", priority=Priority.NORMAL)
    assert [line.pop(), line.pop(), line.pop()] == [high, other, None]
    assert (line.queue.waiting, line.limits.next_at) == (1, None)
    line.queue.release(high)
    assert line.pop() is low


def test_what_waited_longest_for_a_limit_comes_first() -> None:
    """It has its old place again, before those that were served meanwhile."""
    line = Line(whole=Limit(concurrency=2), per_key=ONE)
    a1, a2, b1, b2, c1 = (line.push(key) for key in "aabbc")
    assert [line.pop(), line.pop(), line.pop()] == [a1, b1, None]
    line.queue.release(b1)
    assert line.pop() is c1  # b was served, and a's turn may not come
    line.queue.release(c1)
    assert line.pop() is b2
    line.queue.release(a1)
    assert line.pop() is a2


def test_a_withdrawn_job_is_passed_over_and_may_come_back() -> None:
    line = Line(per_key=Limit(concurrency=5))
    one, two = line.push("a"), line.push("a")
    queue = line.queue
    assert (queue.position(one), queue.position(two)) == (1, 2)
    queue.withdraw(one)
    assert (queue.position(one), queue.position(two), queue.waiting) == (None, 1, 1)
    queue.push(one)
    assert list(queue) == [two, one]
    assert [line.pop(), line.pop(), line.pop()] == [two, one, None]
    assert queue.waiting == 0


def test_a_line_that_waits_for_its_limit_may_be_withdrawn_whole() -> None:
    line = Line(whole=ONE)
    first, gone, kept = (line.push(key) for key in "abc")
    assert [line.pop(), line.pop()] == [first, None]
    line.queue.withdraw(gone)
    line.queue.release(first)
    assert line.pop() is kept
    assert line.queue.waiting == 0


def test_a_more_urgent_job_that_comes_later_to_a_limit_starts_first() -> None:
    """Also where a lower one stands there already, and others stand between the two."""
    line = Line()
    limited, free = definition("limited", ONE), definition("free")
    first = line.push("a", limited)
    assert line.pop() is first
    low = line.push("b", limited, priority=Priority.LOW)
    assert line.pop() is None
    line.queue.release(first)
    second = line.push("c", limited, priority=Priority.HIGH)
    assert line.pop() is second
    third = line.push("d", limited, priority=Priority.HIGH)
    between = [line.push(None, free) for _ in range(2)]
    assert line.pop() is between[0]
    line.queue.release(second)
    assert line.pop() is third
    assert [line.pop(), line.pop()] == [between[1], None]
    line.queue.release(third)
    assert line.pop() is low


def test_a_place_that_was_withdrawn_is_no_longer_the_others() -> None:
    line = Line()
    limited, free = definition("limited", ONE), definition("free")
    first = line.push("a", limited)
    assert line.pop() is first
    urgent = line.push("b", limited, priority=Priority.HIGH)
    low = line.push("c", limited, priority=Priority.LOW)
    assert line.pop() is None
    line.queue.release(first)
    line.queue.withdraw(urgent)
    line.queue.withdraw(again := line.push(None, free))
    line.queue.push(again)  # what was withdrawn is cleared away
    assert [line.pop(), line.pop()] == [again, low]


def test_the_place_in_line_is_counted_over_all_keys() -> None:
    line = Line(per_key=ONE)
    for key in "aabc":
        line.push(key)
    line.push("a", priority=Priority.LOW)
    assert [line.queue.ahead_of(priority) for priority in Priority] == [0, 0, 4, 5]
    assert line.pop() is not None
    assert line.queue.ahead_of(Priority.LOW) == 4


def test_a_rate_says_when_the_next_may_start() -> None:
    line = Line(per_key=Limit(rate=1, per_s=10.0))
    first, second = line.push("a"), line.push("a")
    assert line.queue.pop_nowait() is first
    assert line.queue.pop_nowait() is None
    assert line.limits.next_at is None  # it counts from the call of the function
    line.clock.at = 1003.0
    line.queue.began(first)
    assert line.limits.next_at == 1013.0
    line.clock.at = 1012.9
    assert line.queue.pop_nowait() is None
    line.clock.at = 1013.0
    assert line.queue.pop_nowait() is second


def test_an_attempt_that_never_began_gives_its_start_back() -> None:
    line = Line(whole=Limit(rate=1, per_s=10.0))
    first, second = line.push("a"), line.push("b")
    assert [line.queue.pop_nowait(), line.queue.pop_nowait()] == [first, None]
    line.queue.release(first)
    assert list(line.limits.opened) == [line.queue]
    assert line.queue.pop_nowait() is second


def test_a_limit_that_counts_across_queues_opens_all_of_them() -> None:
    """Whoever is paused loses nothing for the others."""
    limits = Limits({}, SYSTEM)
    queues = [LimitedQueue(limits, name) for name in ("one", "two", "three")]
    limited = definition("limited", ONE)
    jobs = []
    for queue in queues:
        jobs.append(make_job())
        jobs[-1].task = limited
        queue.push(jobs[-1])
    assert [queue.pop_nowait() for queue in queues] == [jobs[0], None, None]
    queues[0].release(jobs[0])
    assert {queue.name for queue in limits.opened} == {"two", "three"}
    assert queues[2].pop_nowait() is jobs[2]  # "two" is woken and does not look
    assert queues[1].pop_nowait() is None
    queues[2].release(jobs[2])
    assert queues[1].pop_nowait() is jobs[1]


@pytest.mark.parametrize("limit", [ONE, Limit(rate=1, per_s=0.5)], ids=["concurrency", "rate"])
def test_what_is_kept_of_idle_keys_is_bounded(limit: Limit) -> None:
    line = Line(per_key=limit)
    line.push("waits")
    line.push("waits")
    assert line.pop() is not None
    for n in range(1000):
        line.push(f"key-{n}")
        line.clock.at += 1.0
        line.queue.withdraw(line.push(f"gone-{n}"))
        assert line.run() is not None
    assert len(line.limits._uses) < 20
    assert len(line.limits._of_keys) < 20


def test_what_is_kept_of_keys_that_wait_is_not_lost() -> None:
    line = Line(per_key=ONE)
    running = [line.push(f"key-{n}") for n in range(10_050)]
    for job in running:
        assert line.pop() is job
    for n in range(10_050):
        line.push(f"key-{n}")
    assert line.pop() is None
    for job in running[:20]:
        line.queue.release(job)
    assert sum(1 for _ in range(50) if line.pop() is not None) == 20


def test_lines_that_are_withdrawn_leave_nothing_behind() -> None:
    line = Line(whole=ONE)
    line.push("first")
    assert line.pop() is not None
    for round in range(20):
        jobs = [line.push(f"{round}-{n}") for n in range(500)]
        assert line.pop() is None
        for job in jobs:
            line.queue.withdraw(job)
    kept = sum(map(len, line.queue._by_key)) + len(line.queue._coming)
    kept += sum(len(barrier.lines) for barrier in line.queue._barriers.values())
    assert kept < 3_000
    assert line.queue.waiting == 0


# What a job costs: lines of code of the queue, at growing numbers of keys


def steps(operation: Callable[[], object]) -> int:
    return steps_of(operation, limits_module, usage_module, priority_queue_module)


def cost_of(scene: Callable[[int], tuple[Line, Callable[[], object]]], count: int) -> float:
    """Steps that a job takes through the queue in a scene with `count` keys."""
    line, each = scene(count)
    jobs = 300

    def run_jobs() -> None:
        for _ in range(jobs):
            each()

    cost = steps(run_jobs) / jobs
    assert line.queue.waiting >= 0
    return cost


def limited_task_with_many_keys(count: int) -> tuple[Line, Callable[[], object]]:
    """A18, r17: one at a time, and each key has one job."""
    line = Line()
    limited = definition("limited", ONE)
    for n in range(count):
        line.push(f"key-{n}", limited)
    running = [line.pop()]
    assert line.pop() is None
    fresh = iter(range(10**9))

    def one_comes_and_one_goes() -> None:
        line.push(f"new-{next(fresh)}", limited)
        assert line.pop() is None
        ended = running.pop()
        assert ended is not None
        line.queue.release(ended)
        running.append(line.pop())

    return line, one_comes_and_one_goes


def many_keys_at_their_limit_beside_an_unlimited_task(
    count: int,
) -> tuple[Line, Callable[[], object]]:
    line = Line()
    limited = definition("limited", per_key=ONE)
    for n in range(2 * count):
        line.push(f"key-{n % count}", limited)
    while line.pop() is not None:
        pass
    assert line.queue.waiting == count
    free = definition("free")

    def pass_by() -> None:
        job = line.push(None, free)
        assert line.run() is job

    return line, pass_by


def keys_that_end_and_go_on(count: int) -> tuple[Line, Callable[[], object]]:
    line = Line(per_key=ONE)
    for n in range(3 * count + 900):
        line.push(f"key-{n % count}")
    running: deque[Job] = deque()
    while (job := line.pop()) is not None:
        running.append(job)

    def one_ends_and_its_next_starts() -> None:
        line.queue.release(running.popleft())
        job = line.pop()
        assert job is not None
        running.append(job)

    return line, one_ends_and_its_next_starts


def a_queue_limit_over_many_keys(count: int) -> tuple[Line, Callable[[], object]]:
    line = Line(whole=Limit(concurrency=2), per_key=ONE)
    for n in range(count + 900):
        line.push(f"key-{n % count}")
    running = deque([line.pop(), line.pop()])
    assert line.pop() is None

    def one_ends_and_another_starts() -> None:
        ended = running.popleft()
        assert ended is not None
        line.queue.release(ended)
        running.append(line.pop())
        assert line.pop() is None

    return line, one_ends_and_another_starts


def many_keys_that_wait_for_their_rate(count: int) -> tuple[Line, Callable[[], object]]:
    line = Line(per_key=Limit(rate=1, per_s=100.0))
    for n in range(3 * count + 900):
        line.push(f"key-{n % count}")
    for _ in range(count):
        line.clock.at += 100.0001 / count
        assert line.run() is not None
    assert line.pop() is None

    def the_next_is_due() -> None:
        assert line.pop() is None
        line.clock.at += 100.0001 / count
        assert line.run() is not None

    return line, the_next_is_due


def a_task_rate_over_many_keys(count: int) -> tuple[Line, Callable[[], object]]:
    line = Line()
    limited = definition("limited", limit=Limit(rate=1000, per_s=1000.0))
    for n in range(count + 900):
        line.push(f"key-{n}", limited)

    def the_next_is_due() -> None:
        line.clock.at += 1.0
        assert line.run() is not None

    return line, the_next_is_due


def keys_that_take_turns(count: int) -> tuple[Line, Callable[[], object]]:
    """A29: no limit anywhere."""
    line = Line()
    for n in range(count + 900):
        line.push(f"key-{n % count}")
    fresh = iter(range(10**9))

    def one_comes_and_one_goes() -> None:
        line.push(f"key-{next(fresh) % count}")
        assert line.run() is not None

    return line, one_comes_and_one_goes


def jobs_that_are_cancelled(count: int) -> tuple[Line, Callable[[], object]]:
    line = Line()
    limited = definition("limited", ONE)
    for n in range(count):
        line.push(f"key-{n}", limited)
    assert line.pop() is not None
    assert line.pop() is None  # all of them stand at the barrier
    fresh = iter(range(10**9))

    def comes_and_is_cancelled() -> None:
        line.queue.withdraw(line.push(f"new-{next(fresh)}", limited))
        assert line.pop() is None

    return line, comes_and_is_cancelled


SCENES = [
    limited_task_with_many_keys,
    many_keys_at_their_limit_beside_an_unlimited_task,
    keys_that_end_and_go_on,
    a_queue_limit_over_many_keys,
    many_keys_that_wait_for_their_rate,
    a_task_rate_over_many_keys,
    keys_that_take_turns,
    jobs_that_are_cancelled,
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_job_costs_the_same_however_many_keys_there_are(
    scene: Callable[[int], tuple[Line, Callable[[], object]]],
) -> None:
    """A18."""
    few, many = cost_of(scene, 10), cost_of(scene, 3_000)
    assert many < few * 1.5 + 10


def test_those_at_their_limit_cost_nobody_else_anything() -> None:
    alone = cost_of(many_keys_at_their_limit_beside_an_unlimited_task, 1)
    beside = cost_of(many_keys_at_their_limit_beside_an_unlimited_task, 3_000)
    assert beside == alone


def test_a_hundred_thousand_keys_are_no_other_case() -> None:
    few = cost_of(limited_task_with_many_keys, 100)
    assert cost_of(limited_task_with_many_keys, 100_000) < few * 1.5 + 10
