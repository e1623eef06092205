"""Unique jobs: which kept job has the key, for how long, and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clocks import SetClock, assembled_with
from worker_runtime import InvalidJob, InvalidTransition, JobInfo, Runtime, State, call, task
from worker_runtime.acceptance.options import given_options
from worker_runtime.clock.source import SYSTEM

Start = Callable[..., Runtime]


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture(params=["memory", "sqlite"])
def start(request: pytest.FixtureRequest, tmp_path: Path, gate: asyncio.Event) -> Start:
    store = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    return lambda: Runtime(_tasks(gate), store=store)


@pytest.fixture
def durable(tmp_path: Path, gate: asyncio.Event) -> Start:
    return lambda: Runtime(_tasks(gate), store=f"sqlite:///{tmp_path}/jobs.db")


def _tasks(gate: asyncio.Event) -> list[Callable[..., Any]]:
    @task
    async def gated(n: int = 0) -> int:
        await gate.wait()
        return n

    @task
    async def instant(n: int = 0) -> int:
        if n < 0:
            raise ValueError("negative")
        return n

    @task
    async def flaky() -> None:
        """Fails until the gate is open."""
        if not gate.is_set():
            raise ValueError("the gate is closed")

    return [gated, instant, flaky]


async def all_jobs(runtime: Runtime) -> list[JobInfo]:
    return (await runtime.list_jobs()).jobs


async def test_an_unfinished_job_is_the_answer(start: Start, gate: asyncio.Event) -> None:
    async with start() as runtime:
        mail = runtime.options(unique_key="mail:7")
        first = await mail.enqueue("gated", 1)
        second = await mail.enqueue("gated", 2)  # with whatever arguments
        other = await runtime.options(unique_key="mail:8").enqueue("gated", 3)
        assert (first.is_new, second.is_new, other.is_new) == (True, False, True)
        assert second.id == first.id
        assert len(await all_jobs(runtime)) == 2
        gate.set()
        assert await second.result(timeout_s=5) == 1
        third = await mail.enqueue("gated", 4)
        assert third.is_new
        assert await third.result(timeout_s=5) == 4


async def test_many_callers_at_once_get_one_job(start: Start, gate: asyncio.Event) -> None:
    async with start() as runtime:
        unique = runtime.options(unique_key="k", unique_for_s=60)
        handles = await asyncio.gather(*(unique.enqueue("gated", n) for n in range(20)))
        assert sum(handle.is_new for handle in handles) == 1
        assert len({handle.id for handle in handles}) == 1
        gate.set()
        await runtime.join()


async def test_with_a_period_a_completed_job_counts_too_and_a_failed_one_does_not(
    start: Start,
) -> None:
    async with start() as runtime:
        unique = runtime.options(unique_key="k", unique_for_s=60)
        failed = await unique.enqueue("instant", -1)
        assert await failed.wait(timeout_s=5) is State.FAILED
        done = await unique.enqueue("instant", 1)
        assert done.is_new
        assert await done.result(timeout_s=5) == 1
        again = await unique.enqueue("instant", 2)
        assert (again.is_new, await again.result(timeout_s=5)) == (False, 1)
        # Whoever does not ask about ended jobs is not held up by one.
        assert (await runtime.options(unique_key="k").enqueue("instant", 3)).is_new


async def test_the_period_counts_from_the_acceptance(start: Start) -> None:
    clock = SetClock()
    with assembled_with(clock):
        runtime = start()
    async with runtime:
        unique = runtime.options(unique_key="k", unique_for_s=100)
        done = await unique.enqueue("instant")
        await done.result(timeout_s=5)
        clock.ahead_s = 90
        assert not (await unique.enqueue("instant")).is_new
        clock.ahead_s = 101
        assert (await unique.enqueue("instant")).is_new


async def test_the_states_that_count_may_be_chosen(start: Start, gate: asyncio.Event) -> None:
    async with start() as runtime:
        waiting = runtime.options(unique_key="k", unique_states=[State.QUEUED, State.SCHEDULED])
        runtime.pause("default")
        assert (await waiting.enqueue("gated", 1)).is_new
        assert not (await waiting.enqueue("gated", 2)).is_new
        runtime.resume("default")
        await asyncio.sleep(0)
        assert (await waiting.enqueue("gated", 3)).is_new  # the first one runs
        failed = runtime.options(unique_key="f", unique_states=[State.FAILED])
        first = await failed.enqueue("instant", -1)
        await first.wait(timeout_s=5)
        assert (await failed.enqueue("instant", 1)).id == first.id
        gate.set()


async def test_a_deleted_job_holds_no_key(start: Start) -> None:
    async with start() as runtime:
        unique = runtime.options(unique_key="k", unique_for_s=60)
        done = await unique.enqueue("instant", 1)
        await done.result(timeout_s=5)
        await runtime.delete(done.id)
        assert (await unique.enqueue("instant", 2)).is_new


async def test_a_refused_job_holds_no_key(start: Start) -> None:
    async with start() as runtime:
        unique = runtime.options(unique_key="k")
        with pytest.raises(Exception, match="argument `n`"):
            await unique.enqueue("instant", "one")
        assert (await unique.enqueue("instant", 1)).is_new


async def test_each_of_a_batch_is_unique_on_its_own(start: Start, gate: asyncio.Event) -> None:
    async with start() as runtime:
        one, two = (given_options(SYSTEM, {"unique_key": key}).now() for key in "12")
        gated = call("gated")
        answers = await runtime.doorway.enqueue_each([(one, gated), (two, gated), (one, gated)])
        handles = [answer for answer in answers if not isinstance(answer, Exception)]
        assert [handle.is_new for handle in handles] == [True, True, False]
        assert handles[2].id == handles[0].id
        gate.set()
        await runtime.join()


async def test_a_key_is_held_across_a_restart(durable: Start, gate: asyncio.Event) -> None:
    runtime = durable()
    await runtime.start()
    waits = await runtime.options(unique_key="waits").enqueue("gated", 1)
    done = await runtime.options(unique_key="done", unique_for_s=60).enqueue("instant", 2)
    await done.result(timeout_s=5)
    await runtime.stop(within_s=0)
    gate.set()
    async with durable() as runtime:
        again = await runtime.options(unique_key="done", unique_for_s=60).enqueue("instant", 3)
        assert (again.is_new, again.id) == (False, done.id)
        assert await again.result(timeout_s=5) == 2
        assert (await runtime.find(waits.id)).id == waits.id
        assert await (await runtime.find(waits.id)).result(timeout_s=5) == 1
    gate.clear()
    runtime = durable()
    await runtime.start()
    waits = await runtime.options(unique_key="waits").enqueue("gated", 1)
    assert waits.is_new
    await runtime.stop(within_s=0)
    async with durable() as runtime:  # recovered, and still the one
        again = await runtime.options(unique_key="waits").enqueue("gated", 2)
        assert (again.is_new, again.id) == (False, waits.id)
        gate.set()
        assert await again.result(timeout_s=5) == 1


async def test_a_job_that_is_retried_has_its_key_again(start: Start, gate: asyncio.Event) -> None:
    """A24: also though another job had it meanwhile."""
    async with start() as runtime:
        unique = runtime.options(unique_key="k")
        first = await unique.enqueue("flaky")
        assert await first.wait(timeout_s=5) is State.FAILED
        second = await unique.enqueue("instant")
        assert second.is_new
        await second.result(timeout_s=5)
        runtime.pause("default")
        # In the same turn: it has the key before its return is recorded.
        retry = asyncio.ensure_future(runtime.retry(first.id))
        await asyncio.sleep(0)  # a turn, in which it is asked for and not yet recorded
        third = await unique.enqueue("instant")
        await retry
        fourth = await unique.enqueue("instant")
        assert [third.is_new, fourth.is_new] == [False, False]
        assert {third.id, fourth.id} == {first.id}
        gate.set()
        runtime.resume("default")
        assert await first.wait(timeout_s=5) is State.COMPLETED
        assert (await unique.enqueue("instant")).is_new


async def test_a_job_whose_key_another_has_is_not_retried(
    start: Start, gate: asyncio.Event
) -> None:
    async with start() as runtime:
        unique = runtime.options(unique_key="k")
        first = await unique.enqueue("flaky")
        await first.wait(timeout_s=5)
        holder = await unique.enqueue("gated")
        says = f"job {first.id}: job {holder.id} has its unique key 'k' now"
        with pytest.raises(InvalidTransition, match=says):
            await runtime.retry(first.id)
        assert (await runtime.retry_many()).jobs == []
        gate.set()
        await holder.result(timeout_s=5)
        assert (await runtime.retry_many()).jobs == [first.id]
        await runtime.join()


async def test_of_several_dead_letters_of_a_key_the_oldest_is_retried(
    start: Start, gate: asyncio.Event
) -> None:
    async with start() as runtime:
        unique = runtime.options(unique_key="k")
        letters = []
        for _ in range(3):
            letters.append(await unique.enqueue("flaky"))
            await letters[-1].wait(timeout_s=5)
        assert len({letter.id for letter in letters}) == 3
        runtime.pause("default")
        other = await runtime.options(unique_key="other").enqueue("gated")
        assert (await runtime.retry_many()).jobs == [letters[0].id]
        assert (await runtime.retry_many()).jobs == []
        gate.set()
        runtime.resume("default")
        await runtime.join()
        assert other.state is State.COMPLETED


async def test_a_retried_job_has_its_key_across_a_restart(
    durable: Start, gate: asyncio.Event
) -> None:
    async with durable() as runtime:
        first = await runtime.options(unique_key="k").enqueue("flaky")
        await first.wait(timeout_s=5)
        await (await runtime.options(unique_key="k").enqueue("instant")).wait(timeout_s=5)
        runtime.pause("default")
        await runtime.retry(first.id)
    runtime = durable()
    runtime.pause("default")
    async with runtime:
        again = await runtime.options(unique_key="k").enqueue("instant")
        assert (again.is_new, again.id) == (False, first.id)
        runtime.resume("default")
        assert await again.wait(timeout_s=5) is State.FAILED
        runtime.pause("default")
        await runtime.options(unique_key="k").enqueue("instant")
    runtime = durable()
    runtime.pause("default")
    async with runtime:
        (waiting,) = (await runtime.list_jobs(state=State.QUEUED)).jobs
        with pytest.raises(InvalidTransition, match=f"job {waiting.id} has its unique key"):
            await runtime.retry(first.id)


async def test_options_that_cannot_be_meant_are_refused(start: Start) -> None:
    runtime = start()
    with pytest.raises(InvalidJob, match="mean nothing without unique_key"):
        runtime.options(unique_for_s=1)
    with pytest.raises(InvalidJob, match="unique_key must be text of 1 to 256"):
        runtime.options(unique_key="")
    with pytest.raises(InvalidJob, match="unique_for_s"):
        runtime.options(unique_key="k", unique_for_s=0)
    with pytest.raises(InvalidJob, match="unique_states must be some of scheduled, queued"):
        runtime.options(unique_key="k", unique_states=["done"])  # type: ignore[list-item]
    async with runtime:
        with pytest.raises(InvalidJob, match="unique_key names one job"):
            await runtime.options(unique_key="k").enqueue_many([call("instant", 1)])
