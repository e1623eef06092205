"""What has ended: listed across memory and file, inspected, retried and deleted, one or many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from worker_runtime import (
    InvalidJob,
    InvalidTransition,
    JobContext,
    JobPage,
    QueueSettings,
    Reason,
    Retry,
    Runtime,
    Settings,
    State,
    UnknownJob,
    task,
)

Start = Callable[..., Runtime]


class Switch:
    fails = True


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture(params=["memory", "sqlite"])
def start(request: pytest.FixtureRequest, tmp_path: Path, switch: Switch) -> Start:
    store = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    return lambda **options: Runtime(_tasks(switch), store=store, **options)


@pytest.fixture
def durable(tmp_path: Path, switch: Switch) -> Start:
    return lambda **options: Runtime(
        _tasks(switch), store=f"sqlite:///{tmp_path}/jobs.db", **options
    )


def _tasks(switch: Switch) -> list[Callable[..., Any]]:
    @task(retry=Retry(max_attempts=2, delay_s=0))
    async def flaky(ctx: JobContext, n: int = 0) -> int:
        ctx.report(n, 10, step="half way")
        if switch.fails:
            raise ValueError(f"no {n}")
        return n

    @task(queue="other")
    async def fine(n: int = 0) -> int:
        return n

    return [flaky, fine]


async def run_all(runtime: Runtime, name: str, count: int) -> list[str]:
    handles = [await runtime.enqueue(name, n) for n in range(count)]
    for handle in handles:
        await handle.wait(timeout_s=5)
    return [handle.id for handle in handles]


async def pages(runtime: Runtime, limit: int, **filters: Any) -> list[str]:
    """The ids of all pages; each but the last one is full."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page: JobPage = await runtime.list_jobs(limit=limit, cursor=cursor, **filters)
        found += [job.id for job in page.jobs]
        if page.cursor is None:
            return found
        assert len(page.jobs) == limit
        cursor = page.cursor


async def test_a_job_that_waited_too_long_runs_when_it_is_retried(
    start: Start, switch: Switch
) -> None:
    switch.fails = False
    async with start() as runtime:
        runtime.pause("default")
        expired = await runtime.options(expires_s=0.1).enqueue("flaky", 3)
        many = [await runtime.options(expires_s=0.1).enqueue("flaky", n) for n in range(2)]
        await eventually(lambda: time.time() > many[-1].job.created_at + 0.1)
        runtime.resume("default")
        for handle in (expired, *many):
            await handle.wait(timeout_s=5)
        assert expired.info().reason is Reason.EXPIRED
        again = await runtime.retry(expired.id)
        assert await again.result(timeout_s=5) == 3
        assert len((await runtime.retry_many(state=State.FAILED)).jobs) == 2
        await runtime.join()
        assert {(await runtime.find(h.id)).state for h in many} == {State.COMPLETED}


async def test_pages_go_across_memory_and_file_without_gap_or_double(durable: Start) -> None:
    async with durable() as runtime:
        first = await run_all(runtime, "fine", 5) + await run_all(runtime, "flaky", 4)
    settings = Settings(history_count_max=3)  # of what ends now, memory keeps three
    async with durable(settings=settings) as runtime:
        # More than a thousand of one kind would be pruned from the file too; these stay.
        second = await run_all(runtime, "fine", 2) + await run_all(runtime, "flaky", 2)
        runtime.pause("other")
        waiting = await runtime.enqueue("fine", 9)
        newest_first = [waiting.id, *reversed(first + second)]
        kept = [job_id for job_id in newest_first if await _is_kept(runtime, job_id)]
        for limit in (1, 2, 3, 7, 100):
            assert await pages(runtime, limit) == kept
            fine = [i for i in kept if i in {*first[:5], *second[:2], waiting.id}]
            assert await pages(runtime, limit, task="fine") == fine
            assert await pages(runtime, limit, queue="other", state=State.COMPLETED) == fine[1:]
            failed = [i for i in kept if i in {*first[5:], *second[2:]}]
            assert await pages(runtime, limit, state=State.FAILED) == failed
            assert await pages(runtime, limit, state=State.QUEUED) == [waiting.id]
        both = {State.FAILED, State.QUEUED}
        assert await pages(runtime, 2, state=both) == [waiting.id, *failed]


async def _is_kept(runtime: Runtime, job_id: str) -> bool:
    try:
        await runtime.find(job_id)
    except UnknownJob:
        return False
    return True


async def test_pages_stay_in_order_when_an_old_job_comes_back(
    durable: Start, switch: Switch
) -> None:
    async with durable() as runtime:
        old = await run_all(runtime, "flaky", 3)
    switch.fails = False
    async with durable() as runtime:
        new = await run_all(runtime, "fine", 3)
        await (await runtime.retry(old[1])).result(timeout_s=5)
        for limit in (1, 2, 100):
            assert await pages(runtime, limit) == [*reversed(new), *reversed(old)]


async def test_an_inspection_shows_attempts_times_and_the_last_progress(start: Start) -> None:
    async with start() as runtime:
        [job_id] = await run_all(runtime, "flaky", 1)
        detail = await runtime.inspect(job_id)
        assert (detail.state, detail.reason, detail.error) == (
            State.FAILED,
            Reason.ERROR,
            "no 0",
        )
        assert detail.progress is not None
        assert detail.progress.step == "half way"
        assert [attempt.number for attempt in detail.attempts] == [1, 2]
        for attempt in detail.attempts:
            assert attempt.error_type == "ValueError"
            assert "in flaky" in (attempt.traceback or "")
            assert attempt.started_at is not None
            assert attempt.ended_at is not None
            assert attempt.started_at <= attempt.ended_at


async def test_an_inspection_after_a_restart_shows_the_same(durable: Start) -> None:
    async with durable() as runtime:
        [job_id] = await run_all(runtime, "flaky", 1)
        before = await runtime.inspect(job_id)
    async with durable() as runtime:
        assert await runtime.inspect(job_id) == before


async def test_one_is_retried_also_from_the_file_alone(durable: Start, switch: Switch) -> None:
    async with durable() as runtime:
        [job_id] = await run_all(runtime, "flaky", 1)
    switch.fails = False
    async with durable() as runtime:
        handles = await asyncio.gather(
            *(runtime.retry(job_id) for _ in range(3)), return_exceptions=True
        )
        refused = [one for one in handles if isinstance(one, InvalidTransition)]
        assert len(refused) == 2  # it runs once, however many ask
        assert await (await runtime.find(job_id)).result(timeout_s=5) == 0
        assert len((await runtime.inspect(job_id)).attempts) == 3
        with pytest.raises(InvalidTransition, match="is completed"):
            await runtime.retry(job_id)
        with pytest.raises(UnknownJob):
            await runtime.retry("nobody")


async def test_many_are_retried_by_filter(start: Start, switch: Switch) -> None:
    async with start() as runtime:
        failed = await run_all(runtime, "flaky", 6)
        await run_all(runtime, "fine", 2)
        switch.fails = False
        assert (await runtime.retry_many(queue="other")).jobs == []
        some = await runtime.retry_many(task="flaky", limit=2)
        assert (sorted(some.jobs), some.has_more) == (sorted(failed[4:]), True)
        rest = await runtime.retry_many()
        assert (sorted(rest.jobs), rest.has_more) == (sorted(failed[:4]), False)
        await runtime.join()
        assert await pages(runtime, 100, state=State.FAILED) == []


async def test_a_bulk_retry_takes_what_there_is_room_for(start: Start, switch: Switch) -> None:
    queues = [QueueSettings("default", concurrency=1, capacity=4)]
    async with start(queues=queues) as runtime:
        for _ in range(3):
            await run_all(runtime, "flaky", 2)
        runtime.pause("default")
        taken = await runtime.retry_many()
        assert (len(taken.jobs), taken.has_more) == (4, True)
        switch.fails = False
        runtime.resume("default")
        await runtime.join()
        assert len(await pages(runtime, 100, state=State.FAILED)) == 2


async def test_an_ended_job_is_deleted_for_good(start: Start) -> None:
    async with start() as runtime:
        [done] = await run_all(runtime, "fine", 1)
        runtime.pause("other")
        waiting = await runtime.enqueue("fine")
        with pytest.raises(InvalidTransition, match="is queued; only ended jobs"):
            await runtime.delete(waiting.id)
        await runtime.delete(done)
        with pytest.raises(UnknownJob):
            await runtime.delete(done)
        assert await pages(runtime, 100) == [waiting.id]
        # Its id is free again.
        runtime.resume("other")
        again = await runtime.options(job_id=done).enqueue("fine", 5)
        assert await again.result(timeout_s=5) == 5


async def test_a_delete_reaches_what_only_the_file_has(durable: Start) -> None:
    async with durable() as runtime:
        done = await run_all(runtime, "fine", 3) + await run_all(runtime, "flaky", 2)
    async with durable() as runtime:
        await runtime.delete(done[0])
        gone = await runtime.delete_many(state=State.FAILED)
        assert (sorted(gone.jobs), gone.has_more) == (sorted(done[3:]), False)
    async with durable() as runtime:
        assert await pages(runtime, 100) == [done[2], done[1]]


async def test_what_cannot_be_asked_is_refused(start: Start) -> None:
    async with start() as runtime:
        with pytest.raises(InvalidJob, match="limit must be between 1 and 1000"):
            await runtime.list_jobs(limit=0)
        with pytest.raises(InvalidJob, match="limit must be between"):
            await runtime.retry_many(limit=1001)
        with pytest.raises(InvalidJob, match="not one that a list gave"):
            await runtime.list_jobs(cursor="x")
        with pytest.raises(InvalidJob, match=r"must be one of cancelled, failed, not completed"):
            await runtime.retry_many(state=State.COMPLETED)
        with pytest.raises(InvalidJob, match="must be one of"):
            await runtime.delete_many(state=State.RUNNING)
