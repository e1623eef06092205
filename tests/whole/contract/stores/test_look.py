"""What every store shows of its jobs: one by id, pages of them, queues and what waits there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fleet_worker import served
from tests.support.helpers import eventually
from tests.whole.contract.stores.places import Place
from tests.whole.contract.stores.world import World
from worker_runtime import (
    InvalidJob,
    JobContext,
    JobInfo,
    JobPage,
    Priority,
    Runtime,
    Settings,
    State,
    UnknownJob,
    task,
)


async def all_pages(runtime: Runtime, *, limit: int, **filters: Any) -> list[str]:
    """The ids of all jobs that match, a page at a time."""
    ids: list[str] = []
    page: JobPage | None = None
    while page is None or page.cursor is not None:
        cursor = None if page is None else page.cursor
        page = await runtime.list_jobs(limit=limit, cursor=cursor, **filters)
        assert len(page.jobs) <= limit
        ids += [job.id for job in page.jobs]
    return ids


async def test_a_job_is_found_in_each_state_that_it_has(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        running = await runtime.enqueue("hold")
        await world.running(running.id)
        queued = await runtime.enqueue("note", 1)
        scheduled = await runtime.options(delay_s=60).enqueue("note", 2)
        for job, state in (
            (running, State.RUNNING),
            (queued, State.QUEUED),
            (scheduled, State.SCHEDULED),
        ):
            assert (await runtime.find(job.id)).state is state
            page = await runtime.list_jobs(state=state)
            assert [info.id for info in page.jobs] == [job.id]
        world.gate.set()
        await queued.result(timeout_s=20)
        for job in (running, queued):
            assert (await runtime.find(job.id)).state is State.COMPLETED
        with pytest.raises(UnknownJob):
            await runtime.find("nobody")


async def test_a_job_is_shown_with_what_it_is_and_came_to(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        options = runtime.options(label="mine", priority=Priority.HIGH)
        job = await options.enqueue("fail", 9)
        await job.wait(timeout_s=20)
        info = (await runtime.find(job.id)).info()
        assert (info.id, info.task) == (job.id, "fail")
        assert (info.state, info.attempt) == (State.FAILED, 3)
        assert (info.reason, info.error_type, info.error) == ("error", "ValueError", "failure 3")
        assert info.started_at is not None
        assert info.ended_at is not None
        assert info.created_at <= info.started_at <= info.ended_at


@pytest.mark.differs(redis="an ended job's queue is `default`, its priority its task's, no label")
async def test_an_ended_job_is_shown_with_its_queue_priority_and_label(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime:
        options = runtime.options(label="mine", priority=Priority.HIGH, queue="mail")
        job = await options.enqueue("note", 1)
        await job.wait(timeout_s=20)
        info = (await runtime.find(job.id)).info()
        assert (info.queue, info.priority, info.label) == ("mail", "high", "mine")


async def test_a_waiting_job_is_shown_with_its_queue_priority_and_label(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime:
        runtime.pause("mail")
        options = runtime.options(label="mine", priority=Priority.HIGH, queue="mail")
        job = await options.enqueue("note", 1)
        info = (await runtime.find(job.id)).info()
        assert (info.queue, info.priority, info.label) == ("mail", "high", "mine")


async def test_a_running_job_shows_its_progress(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        job = await runtime.enqueue("hold")

        async def shown() -> Any:
            return (await runtime.find(job.id)).info().progress

        progress = await eventually(shown)
        assert (progress.percentage, progress.step) == (25.0, "holding")


@pytest.mark.differs(redis="the progress goes with the end of the job")
async def test_an_ended_job_shows_how_far_it_came(store: Place) -> None:
    @task
    async def half(ctx: JobContext) -> None:
        ctx.report(1, 2, step="half")

    async with store.runtime([half]) as runtime:
        job = await runtime.enqueue("half")
        await job.wait(timeout_s=20)
        progress = (await runtime.find(job.id)).info().progress
        assert progress is not None
        assert (progress.percentage, progress.step) == (50.0, "half")


async def test_jobs_are_listed_newest_first_in_pages(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        ids = [(await runtime.enqueue("note", n)).id for n in range(7)]
        await runtime.join()
        waiting = await runtime.options(delay_s=60).enqueue("note", 9)
        expected = [waiting.id, *reversed(ids)]
        found = await all_pages(runtime, limit=3)
        assert sorted(found) == sorted(expected)
        assert found[0] == waiting.id
        with pytest.raises(InvalidJob):
            await runtime.list_jobs(cursor="not one of ours")
        with pytest.raises(InvalidJob):
            await runtime.list_jobs(limit=0)


@pytest.mark.differs(redis="jobs of one millisecond stand in an order of their own")
async def test_jobs_of_one_moment_are_listed_in_their_order(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime, served(runtime) as worker:
        runtime.pause("default")
        batch = [{"task": "note", "args": [n], "id": f"job-{n}"} for n in range(30)]
        await worker.ask("POST", "/v1/jobs/batch", batch)
        expected = [f"job-{n}" for n in range(29, -1, -1)]
        assert await all_pages(runtime, limit=10) == expected


async def test_a_list_has_what_was_asked_for(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        done = await runtime.enqueue("note", 1)
        failed = await runtime.enqueue("fail", 9)
        await runtime.join()
        runtime.pause("mail")
        posted = await runtime.enqueue("post", "a")
        cancelled = await runtime.options(delay_s=60).enqueue("note", 2)
        await cancelled.cancel()
        for filters, job in (
            ({"state": State.COMPLETED}, done),
            ({"state": State.FAILED}, failed),
            ({"state": State.CANCELLED}, cancelled),
            ({"state": State.QUEUED}, posted),
            ({"queue": "mail"}, posted),
            ({"task": "fail"}, failed),
            ({"task": "note", "state": State.COMPLETED}, done),
        ):
            assert await all_pages(runtime, limit=10, **filters) == [job.id], filters
        ended = (State.COMPLETED, State.FAILED)
        assert len(await all_pages(runtime, limit=1, state=ended)) == 2
        assert await all_pages(runtime, limit=10, task="nothing") == []


@pytest.mark.differs(redis="an ended job's queue is `default`")
async def test_ended_jobs_are_listed_by_their_queue(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        posted = await runtime.enqueue("post", "a")
        await runtime.enqueue("note", 1)
        await runtime.join()
        assert await all_pages(runtime, limit=10, queue="mail") == [posted.id]


async def test_http_shows_the_same(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime, served(runtime) as worker:
        done = await runtime.enqueue("note", 1)
        failed = await runtime.enqueue("fail", 9)
        await runtime.join()
        listed = (await worker.ask("GET", "/v1/jobs")).document["jobs"]
        assert {job["id"]: job["state"] for job in listed} == {
            done.id: "completed",
            failed.id: "failed",
        }
        shown = (await worker.ask("GET", f"/v1/jobs/{done.id}")).document
        assert (shown["result"], shown["attempt"]) == (1, 1)
        assert (await worker.ask("GET", "/v1/jobs/nobody")).status == 404
        again = await worker.ask("POST", f"/v1/jobs/{failed.id}/retry")
        assert (again.status, again.document["id"]) == (202, failed.id)
        assert (await worker.ask("POST", f"/v1/jobs/{done.id}/retry")).status == 409


@pytest.mark.differs(redis="what waits is counted by claims, and a busy worker makes none")
async def test_a_queue_says_what_waits_and_runs(store: Place, world: World) -> None:
    async with world.runtime(store, concurrency=1) as runtime:
        job = await runtime.enqueue("hold")
        await world.running(job.id)
        for n in range(3):
            await runtime.enqueue("note", n)
        await runtime.options(delay_s=60).enqueue("note", 9)
        await eventually(lambda: runtime.queue_info("default").waiting == 4, timeout_s=2)
        info = runtime.queue_info("default")
        assert (info.running, info.concurrency, info.paused) == (1, 1, False)
        runtime.pause("default")
        assert runtime.queue_info("default").paused


@pytest.mark.differs(redis="a place in line is known in the process alone")
async def test_a_waiting_job_has_a_place_in_line(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        runtime.pause("default")
        jobs = [await runtime.enqueue("note", n) for n in range(3)]
        assert [runtime.position(job.job) for job in jobs] == [1, 2, 3]


async def test_a_task_counts_its_jobs(store: Place, world: World) -> None:
    async with world.runtime(store) as runtime:
        await runtime.enqueue("note", 1)
        await runtime.enqueue("fail", 1)
        await runtime.join()
        tallies = {each.name: each.tally for each in runtime.tasks}
        assert (tallies["note"].accepted, tallies["note"].completed) == (1, 1)
        assert (tallies["fail"].retried, tallies["fail"].completed) == (1, 1)


@pytest.mark.differs(redis="only their age counts")
async def test_no_more_ended_jobs_are_kept_than_were_asked_for(store: Place, world: World) -> None:
    settings = Settings(history_count_max=3, stop_within_s=0)
    async with world.runtime(store, settings=settings, concurrency=1) as runtime:
        ids = [(await runtime.enqueue("note", n)).id for n in range(8)]
        await runtime.join()

        async def kept() -> bool:
            return len((await runtime.list_jobs()).jobs) == 3

        await eventually(kept, timeout_s=2)
        assert await all_pages(runtime, limit=10) == ids[:-4:-1]


def test_a_snapshot_has_the_fields_that_are_compared_here() -> None:
    """One that is added has to be asked for on every store."""
    assert set(JobInfo.__struct_fields__) == {
        *("id", "task", "queue", "priority", "state", "attempt", "label", "progress"),
        *("created_at", "due_at", "started_at", "ended_at"),
        *("reason", "error_type", "error", "note"),
    }
