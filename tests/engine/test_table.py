"""Jobs are found while they are kept, history is bounded, and waiters are woken and bounded."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.jobs import make_job
from tests.support.steps import steps_of
from worker_runtime import ShuttingDown, State, Unavailable
from worker_runtime.clock.source import SYSTEM
from worker_runtime.engine import table as table_module
from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job, ttl_of
from worker_runtime.model.tasks.options import JobOptions


def make_table(*, count: int = 100, ttl_s: float = 1000.0, waiters: int = 100) -> JobTable:
    return JobTable(SYSTEM, history_count_max=count, history_ttl_s=ttl_s, waiters_max=waiters)


def add(table: JobTable, job: Job) -> Job:
    table.jobs[job.id] = job
    return job


def end(table: JobTable, job: Job, *, at: float | None = None) -> Job:
    job.state = State.COMPLETED
    job.ended_at = time.time() if at is None else at
    table.retire(job, ttl_of(job))
    return job


def test_history_keeps_the_newest_and_every_unfinished_job() -> None:
    table = make_table(count=3)
    unfinished = add(table, make_job())
    ended = [end(table, add(table, make_job())) for _ in range(5)]
    assert list(table.jobs.values()) == [unfinished, *ended[2:]]
    assert table.ended_count == 3


def test_a_history_of_none_keeps_none() -> None:
    table = make_table(count=0)
    job = end(table, add(table, make_job()))
    assert table.get(job.id) is None
    assert table.ended_count == 0


def test_the_job_that_ended_first_is_dropped_whatever_its_time_to_live() -> None:
    table = make_table(count=2)
    now = time.time()
    kept_long = JobOptions(result_ttl_s=500.0)
    first = end(table, add(table, make_job(options=kept_long)), at=now - 3)
    second = end(table, add(table, make_job(options=kept_long)), at=now - 2)
    third = end(table, add(table, make_job()), at=now - 1)
    assert list(table.jobs.values()) == [second, third]
    fourth = end(table, add(table, make_job()), at=now)
    assert list(table.jobs.values()) == [third, fourth]
    assert first.id not in table.jobs


def test_a_job_is_kept_for_its_own_time_to_live() -> None:
    table = make_table(ttl_s=100.0)
    now = time.time()
    short = end(table, add(table, make_job(options=JobOptions(result_ttl_s=5.0))), at=now - 6)
    usual = end(table, add(table, make_job()), at=now - 6)
    assert table.get(short.id) is None
    assert table.get(usual.id) is usual
    table.prune(now + 93)
    assert usual.id in table.jobs
    table.prune(now + 95)
    assert table.jobs == {}
    assert table.ended_count == 0


def test_an_id_can_be_used_again_once_its_job_is_no_longer_kept() -> None:
    table = make_table()
    now = time.time()
    options = JobOptions(result_ttl_s=0.0)
    end(table, add(table, make_job("same", options=options)), at=now - 1)
    assert table.get("same") is None
    again = add(table, make_job("same"))
    table.prune(now + 10)
    assert table.get("same") is again


def test_times_to_live_that_nobody_uses_any_more_leave_nothing_behind() -> None:
    table = make_table(count=10)
    now = time.time()
    for i in range(1000):
        options = JobOptions(result_ttl_s=1.0 + i / 1000)
        end(table, add(table, make_job(options=options)), at=now)
    assert (len(table._ended_own), table.ended_count) == (10, 10)
    assert len(table._passing) < 100
    table.prune(now + 10)
    assert (table._ended_own, table._passing, table.ended_count) == ({}, [], 0)


def test_each_job_may_have_a_time_to_live_of_its_own() -> None:
    """A33f: as many jobs as there are, what is done about one costs the same."""

    def steps_an_end(count: int) -> float:
        table = make_table(count=count)
        now = time.time()

        def end_many(first: int) -> None:
            for n in range(first, first + count):
                options = JobOptions(result_ttl_s=100.0 + n)
                end(table, add(table, make_job(options=options)), at=now + n / 1e6)
                if n % 10 == 0:
                    table.prune(now)

        end_many(0)
        return steps_of(lambda: end_many(count), table_module) / count

    few, many = steps_an_end(100), steps_an_end(2000)
    assert many < few * 1.2


def test_a_job_that_ran_again_is_kept_for_its_whole_time_after_its_last_end() -> None:
    table = make_table()
    now = time.time()
    job = end(table, add(table, make_job(options=JobOptions(result_ttl_s=5.0))), at=now)
    table.revive(job)
    job.ended_at = None
    assert (table.ended_count, table.get(job.id)) == (0, job)
    end(table, job, at=now + 4)
    table.prune(now + 6)
    assert table.jobs == {job.id: job}
    table.prune(now + 10)
    assert table.jobs == {}


def test_pruning_is_bounded_and_a_job_not_yet_pruned_is_not_listed() -> None:
    table = make_table(count=5000, ttl_s=10.0)
    now = time.time()
    for _ in range(2500):
        end(table, add(table, make_job()), at=now - 11)
    table.prune(now)
    assert table.ended_count == 1500
    assert table.listed(lambda job: True, limit=10) == []


def test_a_revived_job_is_no_longer_history() -> None:
    table = make_table(count=1)
    job = end(table, add(table, make_job()))
    table.revive(job)
    job.ended_at = None
    for _ in range(3):
        end(table, add(table, make_job()))
    assert table.get(job.id) is job
    assert table.ended_count == 1


def test_pages_go_from_the_newest_to_the_oldest_and_end() -> None:
    table = make_table()
    jobs = [add(table, make_job()) for _ in range(5)]
    first = table.listed(lambda job: True, limit=2)
    assert first == [jobs[4], jobs[3]]
    add(table, make_job())  # newer than the cursor: not in the pages after it
    del table.jobs[jobs[3].id]  # the cursor's own job is gone
    second = table.listed(lambda job: True, limit=2, below=first[-1].order)
    assert second == [jobs[2], jobs[1]]
    last = table.listed(lambda job: True, limit=2, below=second[-1].order)
    assert last == [jobs[0]]


async def test_waiters_are_woken_when_the_job_ends() -> None:
    table = make_table()
    job = add(table, make_job())
    waiters = [table.wait(job), table.wait(job)]
    end(table, job)
    await asyncio.wait_for(asyncio.gather(*waiters), 10)
    await asyncio.wait_for(table.wait(job), 10)  # it has ended already


async def test_waiters_are_bounded_and_those_who_left_do_not_count() -> None:
    table = make_table(waiters=2)
    job = add(table, make_job())
    first, _second = table.wait(job), table.wait(job)
    with pytest.raises(Unavailable, match="2 callers already wait for a job, the most allowed"):
        table.wait(job)
    table.stop_waiting(job, first)
    assert job.waiters is not None
    assert len(job.waiters) == 1
    third = table.wait(job)
    end(table, job)
    await asyncio.wait_for(third, 10)
    await asyncio.sleep(0)
    other = add(table, make_job())
    assert [table.wait(other) for _ in range(2)]


async def test_waiters_for_jobs_that_are_kept_for_later_are_told() -> None:
    table = make_table()
    waiter = table.wait(add(table, make_job("later")))
    table.release_waiters()
    with pytest.raises(ShuttingDown, match="job later is kept and runs later"):
        await waiter
