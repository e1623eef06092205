"""A file that fails: no space, a foreign lock, an fsync error, an id that is taken."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.sqlite_stores import (
    Faults,
    Jobs,
    changed,
    completed,
    ids,
    kept,
    make_store,
    recovered,
    rows,
    started,
)
from worker_runtime.errors import JobConflict, StoreUnavailable
from worker_runtime.model.job import Job
from worker_runtime.stores.sqlite.store import SqliteStore


async def opened(tmp_path: Path, faults: Faults, **settings: Any) -> SqliteStore:
    store = make_store(tmp_path, connect=faults.connect, **settings)
    await store.open()
    return store


async def refused(store: SqliteStore, job: Job) -> StoreUnavailable:
    future = store.record_accepted([job])
    assert future is not None
    with pytest.raises(StoreUnavailable) as caught:
        await future
    return caught.value


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "the disk of the store is full"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "the disk of the store is full"),
        (sqlite3.SQLITE_BUSY, "another program holds the lock"),
    ],
)
async def test_without_space_new_jobs_are_refused_and_results_are_kept(
    tmp_path: Path, code: int, words: str
) -> None:
    faults = Faults()
    store = await opened(tmp_path, faults)
    jobs = Jobs()
    running, waiting = jobs.make(), jobs.make()
    await kept(store, running, waiting)
    await started(store, running)
    faults.error = code

    assert words in str(await refused(store, jobs.make()))
    end = asyncio.ensure_future(changed(store, running, completed(running, 7)))
    start = asyncio.ensure_future(started(store, waiting))
    await eventually(lambda: store.statistics().unavailable)
    assert store.statistics().results_held_back == 1  # the start that waits too is no result
    error = await refused(store, jobs.make())
    assert words in str(error)
    assert error.retry_after_s == 1.0
    assert not end.done()
    assert not start.done()
    assert rows(store, "state") == [("running",), ("queued",)]

    faults.error = None
    await asyncio.wait_for(asyncio.gather(end, start), 5)
    assert store.statistics().results_held_back == 0
    assert rows(store, "id, state") == [("job-1", "completed"), ("job-2", "running")]
    late = jobs.make()
    await kept(store, late)
    assert [row[0] for row in rows(store, "id")] == ["job-1", "job-2", late.id]
    await store.close()


async def test_a_refused_job_never_starts_although_a_slot_has_it(tmp_path: Path) -> None:
    faults = Faults()
    store = await opened(tmp_path, faults)
    faults.error = sqlite3.SQLITE_FULL
    job = Jobs().make()
    future = store.record_accepted([job])
    start = asyncio.ensure_future(started(store, job))
    assert future is not None
    with pytest.raises(StoreUnavailable):
        await future
    with pytest.raises(StoreUnavailable):
        await start
    faults.error = None
    with pytest.raises(StoreUnavailable, match="not accepted"):
        await store.record_started(job)  # a slot that came too late to hear of it
    assert rows(store, "id") == []
    await store.close()


async def test_a_cancel_of_a_refused_job_is_answered(tmp_path: Path) -> None:
    faults = Faults()
    store = await opened(tmp_path, faults)
    faults.error = sqlite3.SQLITE_FULL
    job = Jobs().make()
    future = store.record_accepted([job])
    await asyncio.wait_for(changed(store, job, completed(job)), 5)
    assert future is not None
    assert isinstance(future.exception(), StoreUnavailable)
    faults.error = None
    await store.close()
    assert rows(store, "id") == []


async def test_what_memory_acknowledged_is_kept_through_a_full_disk(tmp_path: Path) -> None:
    faults = Faults()
    store = await opened(tmp_path, faults, ack="memory")
    faults.error = sqlite3.SQLITE_FULL
    jobs = Jobs()
    first = jobs.make()
    assert store.record_accepted([first]) is None
    await eventually(lambda: store.statistics().unavailable)
    await refused(store, jobs.make())
    faults.error = None
    await eventually(lambda: store.statistics().unavailable is None)
    assert rows(store, "id") == [(first.id,)]
    await store.close()


async def test_closing_on_a_full_disk_ends_and_the_job_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_runtime.stores.sqlite.store._CLOSE_WITHIN_S", 0.2)
    faults = Faults()
    store = await opened(tmp_path, faults)
    job = Jobs().make()
    await kept(store, job)
    await started(store, job)
    faults.error = sqlite3.SQLITE_FULL
    store.record_transition(job, completed(job), lambda: pytest.fail("shown but not kept"))
    await store.close()
    assert "closed with changes unwritten" in caplog.text
    store = make_store(tmp_path)
    await store.open()
    assert ids(await recovered(store)) == [job.id]
    await store.close()


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CORRUPT]
)
async def test_a_failed_file_ends_everything_without_another_acknowledgement(
    tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    deaths: list[str] = []
    store = make_store(tmp_path, connect=faults.connect, on_fatal=deaths.append)
    await store.open()
    jobs = Jobs()
    job = jobs.make()
    await kept(store, job)
    await started(store, job)
    faults.error = code
    shown: list[bool] = []
    store.record_transition(job, completed(job), lambda: shown.append(True))
    accepted = store.record_accepted([jobs.make()])
    assert accepted is not None
    with pytest.raises(StoreUnavailable, match="has failed"):
        await accepted
    assert deaths == [f"OperationalError: injected error {code}"]
    assert "stopping without another acknowledgement" in caplog.text

    faults.error = None  # the next fsync would succeed, and prove nothing
    await refused(store, jobs.make())
    with pytest.raises(StoreUnavailable, match="has failed"):
        await store.record_started(job)
    await store.close()
    assert shown == []
    assert rows(store, "id, state") == [("job-1", "running")]


async def test_a_taken_id_refuses_its_own_callers_only(tmp_path: Path) -> None:
    store = await opened(tmp_path, Faults())
    jobs = Jobs()
    await kept(store, jobs.make(job_id="taken"))
    groups = [
        [jobs.make(job_id="a")],
        [jobs.make(job_id="b"), jobs.make(job_id="taken")],
        [jobs.make(job_id="a")],
        [jobs.make(job_id="c")],
    ]
    futures = [store.record_accepted(group) for group in groups]
    results = await asyncio.gather(*filter(None, futures), return_exceptions=True)
    assert [type(result) for result in results] == [
        type(None),
        JobConflict,
        JobConflict,
        type(None),
    ]
    assert [row[0] for row in rows(store, "id")] == ["taken", "a", "c"]
    await store.close()


async def test_a_full_disk_does_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    store = await opened(tmp_path, faults)
    job = Jobs().make()
    await kept(store, job)
    faults.error = sqlite3.SQLITE_FULL
    start = asyncio.ensure_future(started(store, job))
    before = len(faults.statements)
    await eventually(lambda: len(faults.statements) > before + 3)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    faults.error = None
    await start
    await store.close()


@pytest.mark.parametrize("lost", ["jobs.db", "jobs.db-wal"])
async def test_nothing_is_acknowledged_by_a_file_that_was_deleted(
    tmp_path: Path, lost: str
) -> None:
    died: list[str] = []
    store = make_store(tmp_path, on_fatal=died.append)
    await store.open()
    jobs = Jobs()
    await kept(store, jobs.make())
    (tmp_path / lost).unlink()
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        await kept(store, jobs.make())
    assert len(died) == 1
    assert f"{lost} was deleted" in died[0]
    await store.close()
