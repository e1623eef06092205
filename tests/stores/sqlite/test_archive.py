"""Looking at what is kept, the dead letters, and what is deleted when."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from tests.support.sqlite_stores import (
    Jobs,
    changed,
    completed,
    failed,
    ids,
    kept,
    make_store,
    recovered,
    rows,
    started,
)
from worker_runtime.errors import InvalidTransition
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import CANCELLED, FAILED, QUEUED
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.stores.sqlite.archive import IDS_MAX
from worker_runtime.stores.sqlite.store import SqliteStore


async def ended(store: SqliteStore, job: Job, *, fails: bool = False) -> Job:
    await kept(store, job)
    await started(store, job)
    await changed(store, job, failed(job) if fails else completed(job, 1))
    return job


async def test_pages_are_newest_first_and_filtered(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await recovered(store)
    jobs = Jobs()
    for number in range(6):
        await ended(store, jobs.make("mail", "me") if number % 3 == 2 else jobs.make(), fails=True)
    await kept(store, waiting := jobs.make())
    page = store.archive.page
    assert ids(await page(limit=3)) == ["job-7", "job-6", "job-5"]
    assert ids(await page(limit=3, below=5)) == ["job-4", "job-3", "job-2"]
    assert ids(await page(limit=3, below=2)) == ["job-1"]
    assert ids(await page(queue="mail")) == ["job-6", "job-3"]
    assert ids(await page(task="mail", states=[FAILED], below=6)) == ["job-3"]
    assert ids(await page(states=[QUEUED])) == [waiting.id]
    assert await page(states=[CANCELLED], queue="default") == []
    (letter,) = await page(states=[FAILED], limit=1)
    assert letter.failure is not None
    assert (letter.failure.error, letter.attempt, letter.args) == ("no", 1, ("me",))
    await store.close()


async def test_only_ended_jobs_are_deleted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    await ended(store, jobs.make(), fails=True)
    await ended(store, jobs.make())
    await kept(store, jobs.make())
    assert await store.archive.delete(["job-1", "job-2", "job-3", "job-4"]) == 2
    assert rows(store, "id") == [("job-3",)]
    with pytest.raises(ValueError, match=f"at most {IDS_MAX} job ids"):
        await store.archive.delete(["x"] * (IDS_MAX + 1))
    await store.close()


async def test_dead_letters_run_again_in_the_next_life(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await recovered(store)
    jobs = Jobs()
    await ended(store, jobs.make("add", 1, 2), fails=True)
    await ended(store, jobs.make())
    await kept(store, cancelled := jobs.make())
    cancel = Transition(CANCELLED, 1.0, None, Failure(None, "JobCancelled", "by hand"))
    await changed(store, cancelled, cancel)
    assert await store.archive.revive(["job-1", "job-2", "job-3", "x"]) == ["job-1", "job-3"]
    await store.close()
    store = make_store(tmp_path)
    await store.open()
    first, third = await recovered(store)
    assert (first.id, first.args, first.attempt, first.crashes) == ("job-1", (1, 2), 0, 0)
    assert first.activity is not None
    assert first.activity.attempts[0].failure is not None
    assert first.activity.attempts[0].failure.error == "no"
    assert third.id == "job-3"
    await store.close()


async def test_a_dead_letter_that_runs_again_has_all_the_time_it_takes(tmp_path: Path) -> None:
    """A11: it is too late for its caller already, and somebody wants it run all the same."""
    store = make_store(tmp_path)
    await store.open()
    await recovered(store)
    jobs = Jobs()
    gone = jobs.make(options=JobOptions(expires_at=1.0, label="late"))
    await kept(store, gone, jobs.make(options=JobOptions(expires_at=1.0)))
    expired = Transition(FAILED, 2.0, None, Failure(None, "Expired", "late"))
    await changed(store, gone, expired)
    assert await store.archive.revive(["job-1"]) == ["job-1"]
    await store.close()
    store = make_store(tmp_path)
    await store.open()
    first, second = await recovered(store)
    assert first.options == JobOptions(label="late")
    assert second.options == JobOptions(expires_at=1.0)
    await store.close()


async def test_a_dead_letter_whose_key_another_has_is_passed_over(tmp_path: Path) -> None:
    """A24, with no worker there."""
    store = make_store(tmp_path)
    await store.open()
    await recovered(store)
    jobs = Jobs()
    for key in ("a", "b", "b", "c"):
        await ended(store, jobs.make(options=JobOptions(unique_key=key)), fails=True)
    await kept(store, jobs.make(options=JobOptions(unique_key="a")))
    letters = ["job-1", "job-2", "job-3"]
    with pytest.raises(InvalidTransition, match="job job-1: another has its unique key 'a' now"):
        await store.archive.revive(letters, all_or_none=True)
    assert await store.archive.revive(letters) == ["job-2"]
    assert await store.archive.revive(["job-3", "job-4"]) == ["job-4"]
    await store.close()


async def test_each_queue_keeps_its_newest_and_its_failed_ones_apart(tmp_path: Path) -> None:
    store = make_store(tmp_path, kept_count_max=3)
    await store.open()
    jobs = Jobs()
    for _ in range(2):
        await ended(store, jobs.make(), fails=True)
    for _ in range(6):
        await ended(store, jobs.make())
    await ended(store, jobs.make("mail", "me"))
    await kept(store, jobs.make())
    expected = [1, 2, 6, 7, 8, 9, 10]
    await eventually(lambda: [row[0] for row in rows(store, "place")] == expected)
    await store.close()

    store = make_store(tmp_path, kept_count_max=1)  # a lower limit holds for what is there
    await store.open()
    await eventually(lambda: [row[0] for row in rows(store, "place")] == [2, 8, 9, 10])
    await store.close()


async def test_a_flood_is_pruned_while_the_store_is_busy(tmp_path: Path) -> None:
    store = make_store(tmp_path, kept_count_max=10)
    await store.open()
    jobs = Jobs()
    for _ in range(8):
        flood = [jobs.make() for _ in range(200)]
        store.record_accepted(flood)
        for job in flood:
            store.record_transition(job, completed(job), lambda: None)
        await kept(store, jobs.make())
    done = [row for row in rows(store, "state") if row[0] == "completed"]
    assert len(done) < 1000
    await store.close()


async def test_jobs_are_deleted_by_age_and_by_their_own_time_to_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_runtime.stores.sqlite.file.retention._AGE_INTERVAL_S", 0.01)
    store = make_store(tmp_path, kept_ttl_s=3600.0)
    await store.open()
    jobs = Jobs()
    young, old, fleeting = jobs.make(), jobs.make(), jobs.make("fleeting")
    await kept(store, young, old, fleeting)
    for job in (young, old, fleeting):
        await started(store, job)
    await changed(store, young, completed(young))
    past = Transition(FAILED, time.time() - 3601, None, Failure(None, "E", "e"), attempt=1)
    await changed(store, old, past)
    await changed(store, fleeting, completed(fleeting))
    await eventually(lambda: rows(store, "id") == [(young.id,)])
    await store.close()
