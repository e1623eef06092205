"""Limits per queue, task and key: how many run at a time, how many start in a time, fair turns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.jobs import make_job
from worker_runtime import (
    ConfigurationError,
    Limit,
    Priority,
    QueueSettings,
    Runtime,
    Settings,
    State,
    task,
)
from worker_runtime.clock.source import SYSTEM
from worker_runtime.engine.lines.limits import LimitedQueue, Limits
from worker_runtime.model.tasks.options import JobOptions


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


async def test_a_rate_spreads_the_starts() -> None:
    starts: list[float] = []

    @task(limit=Limit(rate=2, per_s=1.0))
    async def work() -> None:
        starts.append(time.monotonic())

    async with Runtime([work], concurrency=8) as runtime:
        for _ in range(4):
            await runtime.enqueue(work)
        await runtime.join()
    gaps = [later - starts[0] for later in starts]
    # Two at once, then one each 0.5 s. A busy machine may be late, never early.
    assert all(gap >= 0.5 * (n - 1) - 0.02 for n, gap in enumerate(gaps) if n >= 2)
    assert gaps[1] < 0.5


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


# The queue itself


def queue(**limit: Any) -> LimitedQueue:
    return LimitedQueue(Limits({"default": (None, Limit(**limit))}, SYSTEM))


def keyed(job_id: str, key: str, **fields: Any) -> Any:
    return make_job(job_id, options=JobOptions(key=key), **fields)


def test_priorities_stay_strict_among_what_may_start() -> None:
    line = queue(concurrency=1)
    for job in (
        keyed("low", "a", priority=Priority.LOW),
        keyed("high", "a", priority=Priority.HIGH),
        keyed("other", "b", priority=Priority.NORMAL),
    ):
        line.push(job)
    first, second = line.pop_nowait(), line.pop_nowait()
    assert first is not None
    assert second is not None
    assert [first.id, second.id] == ["high", "other"]
    assert line.pop_nowait() is None
    assert (line.waiting, line.allowed_at) == (1, None)
    line.release(first)
    last = line.pop_nowait()
    assert last is not None
    assert last.id == "low"


def test_a_withdrawn_job_is_passed_over_and_may_come_back() -> None:
    line = queue(concurrency=5)
    one, two = keyed("one", "a"), keyed("two", "a")
    line.push(one)
    line.push(two)
    assert (line.position(one), line.position(two)) == (1, 2)
    line.withdraw(one)
    assert (line.position(one), line.position(two), line.waiting) == (None, 1, 1)
    line.push(one)
    assert [job.id for job in line] == ["two", "one"]
    assert line.pop_nowait() is two
    assert line.pop_nowait() is one
    assert (line.pop_nowait(), line.waiting) == (None, 0)


def test_a_rate_says_when_the_next_may_start() -> None:
    line = queue(rate=1, per_s=10.0)
    for name in ("one", "two"):
        line.push(keyed(name, "a"))
    before = time.time()
    assert line.pop_nowait() is not None
    assert line.pop_nowait() is None
    assert line.allowed_at is not None
    assert before + 9.9 < line.allowed_at < time.time() + 10.1


def test_what_is_kept_of_idle_keys_is_bounded() -> None:
    limits = Limits({"default": (None, Limit(concurrency=1))}, SYSTEM)
    line = LimitedQueue(limits)
    for n in range(10_050):
        line.push(keyed(f"job-{n}", f"key-{n}"))
        job = line.pop_nowait()
        assert job is not None
        line.release(job)
    assert len(limits._uses) <= 10_001
