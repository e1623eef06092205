"""The SQLite store keeps what was recorded, in order, and shows nothing before it is kept."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from tests.support.sqlite_stores import (
    TASKS,
    Faults,
    Jobs,
    changed,
    completed,
    failed,
    ids,
    kept,
    mail,
    make_store,
    recovered,
    registry,
    rows,
    started,
)
from worker_runtime.errors import InvalidArguments, PayloadTooLarge, StoreUnavailable
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.model.states import CANCELLED, COMPLETED, FAILED, QUEUED, SCHEDULED, Reason


async def test_a_job_is_acknowledged_after_its_commit_and_not_before(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    faults.gate = threading.Event()
    future = store.record_accepted([Jobs().make()])
    assert future is not None
    done, _ = await asyncio.wait([future], timeout=0.05)
    assert not done
    assert rows(store, "id") == []
    faults.gate.set()
    await future
    assert rows(store, "id, state, attempt") == [("job-1", "queued", 0)]
    await store.close()


async def test_an_acknowledgement_from_memory_comes_before_the_commit(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect, ack="memory")
    await store.open()
    faults.gate = threading.Event()
    job = Jobs().make()
    assert store.record_accepted([job]) is None
    await asyncio.wait_for(store.acknowledged(job), 10)
    assert rows(store, "id") == []
    start = asyncio.ensure_future(started(store, job))  # but no run before it is recorded
    assert not (await asyncio.wait([start], timeout=0.05))[0]
    faults.gate.set()
    await start
    assert rows(store, "id, state, attempt") == [("job-1", "running", 1)]
    await store.close()


async def test_acceptance_and_start_share_one_row_and_one_commit(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    before = faults.commits
    job = Jobs().make()
    accepted = store.record_accepted([job])
    assert accepted is not None
    await started(store, job)
    assert accepted.done()
    assert faults.commits == before + 1
    assert faults.statements[-1] == "INSERT"
    assert rows(store, "state, attempt") == [("running", 1)]
    await store.close()


async def test_many_callers_share_a_commit(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    before = faults.commits
    jobs = Jobs()
    await asyncio.gather(*(kept(store, jobs.make()) for _ in range(1000)))
    assert faults.commits - before <= 3
    assert len(rows(store, "id")) == 1000
    await store.close()


async def test_a_change_is_shown_after_its_commit(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    job = Jobs().make()
    await kept(store, job)
    await started(store, job)
    faults.gate = threading.Event()
    end = asyncio.ensure_future(changed(store, job, completed(job, 5)))
    assert not (await asyncio.wait([end], timeout=0.05))[0]
    assert rows(store, "state") == [("running",)]
    faults.gate.set()
    await end
    assert rows(store, "state, result") == [("completed", b"\x05")]
    await store.close()


async def test_a_second_caller_waits_for_the_same_commit(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    faults.gate = threading.Event()
    job = Jobs().make()
    first = store.record_accepted([job])
    assert first is not None
    await eventually(lambda: faults.statements[-1] == "INSERT")
    second, third = (asyncio.ensure_future(store.acknowledged(job)) for _ in range(2))
    assert not (await asyncio.wait([second, third], timeout=0.05))[0]
    first.cancel()  # callers go away; the others still get their answer
    second.cancel()
    assert not (await asyncio.wait([third], timeout=0.05))[0]
    faults.gate.set()
    await third
    await store.acknowledged(job)
    await store.close()


async def test_a_terminal_state_is_never_overwritten(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    job = Jobs().make()
    await kept(store, job)
    await started(store, job)
    await changed(store, job, completed(job, 1))
    job.ended_at = None  # a caller gone wrong
    await changed(store, job, failed(job))
    assert rows(store, "state, result") == [("completed", b"\x01")]
    with pytest.raises(StoreUnavailable, match="not accepted"):
        await store.record_started(job)
    assert rows(store, "state, attempt") == [("completed", 1)]
    await store.close()


async def test_a_job_that_was_never_accepted_cannot_start(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    good, bad = jobs.make(), jobs.make()
    await kept(store, good)
    start = store.record_started(good)
    with pytest.raises(StoreUnavailable, match="not accepted"):
        await store.record_started(bad)
    await start
    await store.close()


async def test_jobs_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    store = make_store(tmp_path, payload_bytes_max=100)
    await store.open()
    jobs = Jobs()
    many = [jobs.make("mail", "a"), jobs.make("mail", "b" * 200), jobs.make("mail", "c")]
    with pytest.raises(PayloadTooLarge, match="100 are allowed"):
        store.record_accepted(many)
    odd = Job("odd", TASKS.find("mail"), (object(),), None, "mail", 2, 9, 0.0)
    with pytest.raises(InvalidArguments, match="cannot be encoded"):
        store.record_accepted([odd])
    await kept(store, many[0])
    assert rows(store, "id") == [("job-1",)]
    await store.close()


async def test_unfinished_jobs_come_back_in_their_order(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    line = [jobs.make() for _ in range(4500)]
    line.append(jobs.make(due_at=time.time() + 60))
    await asyncio.gather(*(kept(store, job) for job in reversed(line)))
    await started(store, line[0])
    await changed(store, line[0], completed(line[0]))
    cancel = Transition(CANCELLED, 1.0, None, Failure(None, "JobCancelled", "by hand"))
    await changed(store, line[1], cancel)
    await store.close()

    store = make_store(tmp_path)
    await store.open()
    assert store.last_order == 4501
    back = await recovered(store)
    assert ids(back) == ids(line[2:])
    assert {job.state for job in back[:-1]} == {QUEUED}
    assert (back[-1].state, back[-1].due_at) == (SCHEDULED, line[-1].due_at)
    assert {job.attempt for job in back} == {0}
    await store.close()


async def crash(tmp_path: Path, accepted: list[Job], running: list[Job] | None = None) -> None:
    """A life of the store that ends while jobs run. Closing writes nothing by itself."""
    store = make_store(tmp_path)
    await store.open()
    await kept(store, *accepted)
    for job in accepted if running is None else running:
        await started(store, job)
    await store.close()


async def test_a_job_that_was_running_is_counted_as_crashed_once(tmp_path: Path) -> None:
    jobs = Jobs()
    before, job, after = jobs.make(), jobs.make(), jobs.make()
    await crash(tmp_path, [before, job, after], running=[job])
    for _ in range(3):  # recovery itself may be killed and come again
        store = make_store(tmp_path)
        await store.open()
        back = await recovered(store)
        assert ids(back) == ["job-1", "job-2", "job-3"]
        assert [j.crashes for j in back] == [0, 1, 0]
        again = back[1]
        assert (again.state, again.attempt, again.started_at) == (QUEUED, 1, None)
        assert again.activity is not None
        (attempt,) = again.activity.attempts
        assert attempt.failure is not None
        assert (attempt.number, attempt.failure.reason) == (1, Reason.CRASHED)
        await store.close()


async def test_three_crashes_fail_a_job(tmp_path: Path) -> None:
    jobs = Jobs()
    job = jobs.make()
    await crash(tmp_path, [job])
    for crashes in (1, 2):
        store = make_store(tmp_path)
        await store.open()
        (job,) = await recovered(store)
        assert (job.crashes, job.attempt) == (crashes, crashes)
        await started(store, job)
        await store.close()
    store = make_store(tmp_path)
    await store.open()
    assert await recovered(store) == []
    found = await store.find(job.id)
    assert found is not None
    assert (found.state, found.crashes, found.attempt) == (FAILED, 3, 3)
    assert found.failure is not None
    assert found.failure.reason is Reason.CRASHED
    await store.close()


async def test_a_task_may_ask_to_fail_after_a_crash(tmp_path: Path) -> None:
    jobs = Jobs()
    await crash(tmp_path, [jobs.make("fragile"), jobs.make("add")])
    store = make_store(tmp_path)
    await store.open()
    assert ids(await recovered(store)) == ["job-2"]
    found = await store.find("job-1")
    assert found is not None
    assert found.failure is not None
    assert (found.state, found.failure.reason) == (FAILED, Reason.INTERRUPTED)
    await store.close()


async def test_jobs_of_a_task_that_is_gone_come_back_parked(tmp_path: Path) -> None:
    jobs = Jobs()
    await crash(tmp_path, [jobs.make("mail", "me@example.org")])
    store = make_store(tmp_path)
    await store.open()
    (job,) = await recovered(store, registry(_other))
    assert job.task.is_parked
    assert (job.task.name, job.args, job.crashes) == ("mail", ("me@example.org",), 1)
    await store.close()


async def _other() -> None:
    raise NotImplementedError


async def _add_of_days(days: dict[str, int]) -> None:
    raise NotImplementedError


async def test_arguments_that_no_longer_fit_fail_their_job_and_no_other(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    await kept(store, jobs.make("add", 1), jobs.make("mail", "me"))
    await store.close()
    tasks = TaskRegistry(queue="default", timeout_s=None)
    tasks.add(_add_of_days, name="add")
    tasks.add(mail)
    for _ in range(2):
        store = make_store(tmp_path)
        await store.open()
        assert ids(await recovered(store, tasks)) == ["job-2"]
        found = await store.find("job-1")
        assert found is not None
        assert found.failure is not None
        assert (found.state, found.args) == (FAILED, (1,))
        assert "no longer fit the task: argument `days`" in found.failure.error
        await store.close()


async def test_a_revived_job_is_kept_although_its_row_was_pruned(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    for present in (True, False):
        job = jobs.make("add", 3)
        await kept(store, job)
        await started(store, job)
        await changed(store, job, failed(job))
        if not present:
            assert await store.archive.delete([job.id]) == 1
        await changed(store, job, Transition(QUEUED, 2.0, failure=job.failure))
        job.ended_at = None
        assert rows(store, "state, attempt, ended_at")[-1] == ("queued", 0, None)
        await started(store, job)
        assert rows(store, "state, attempt")[-1] == ("running", 1)
    await store.close()
    store = make_store(tmp_path)
    await store.open()
    first, second = await recovered(store)
    assert first.args == second.args == (3,)
    assert first.activity is not None
    assert [a.failure and a.failure.error_type for a in first.activity.attempts] == [
        "ValueError",
        "ProcessDied",
    ]
    await store.close()


async def test_find_gives_ended_jobs_only(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await recovered(store)
    job = Jobs().make("add", 2, 3)
    await kept(store, job)
    assert await store.find(job.id) is None
    assert await store.find("nobody") is None
    await started(store, job)
    await changed(store, job, completed(job, 5))
    found = await store.find(job.id)
    assert found is not None
    assert (found.state, found.result, found.args) == (COMPLETED, 5, (2, 3))
    await store.close()


async def test_close_writes_what_is_recorded_and_refuses_what_comes_later(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    futures = [store.record_accepted([jobs.make()]) for _ in range(100)]
    await store.close()
    assert all(future is not None and future.exception() is None for future in futures)
    assert len(rows(store, "id")) == 100
    late = store.record_accepted([jobs.make()])
    assert late is not None
    with pytest.raises(StoreUnavailable, match="closed"):
        await late
    assert not (tmp_path / "jobs.db-wal").exists()


async def test_statistics_say_how_the_store_is(tmp_path: Path) -> None:
    store = make_store(tmp_path, ack="os")
    await store.open()
    assert store.statistics().last_commit_s is None
    await kept(store, Jobs().make())
    figures = store.statistics()
    assert (figures.kind, figures.unavailable) == ("sqlite", None)
    assert figures.results_held_back == 0
    assert figures.commits
    assert figures.rows
    assert figures.log_bytes
    assert figures.last_commit_s
    assert figures.leases_held is figures.claimed is figures.dead_letters is None
    await store.close()


async def test_jobs_that_arrive_in_successive_turns_of_the_loop_share_a_commit(
    tmp_path: Path,
) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    jobs = Jobs()
    faults.gate = threading.Event()
    first = store.record_accepted([jobs.make()])
    await asyncio.sleep(0.5)  # as long as the next batch may grow
    faults.gate.set()
    assert first is not None
    await first
    accepted = []
    for _ in range(8):
        accepted.append(store.record_accepted([jobs.make()]))
        await asyncio.sleep(0)
    for future in accepted:
        assert future is not None
        await future
    assert (store.statistics().commits, len(rows(store, "id"))) == (2, 9)
    await store.close()


async def test_a_store_that_is_not_open_says_so_and_makes_no_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)

    async def refused() -> None:
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.find("job-1")
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.delete(["job-1"])
        with pytest.raises(StoreUnavailable, match="not open"):
            async with store.transaction():
                pytest.fail("entered")

    await refused()
    assert list(tmp_path.iterdir()) == []
    await store.open()
    await store.close()
    await refused()
