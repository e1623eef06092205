"""The application's rows and its jobs exist together or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.sqlite_stores import Faults, Jobs, ids, kept, make_store, recovered, rows
from worker_runtime.errors import (
    JobConflict,
    PayloadTooLarge,
    StoreUnavailable,
    TransactionExpired,
)
from worker_runtime.stores.sqlite.store import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = make_store(tmp_path, payload_bytes_max=100)
    await store.open()
    async with store.transaction() as tx:
        await tx.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
    yield store
    await store.close()


async def orders(store: SqliteStore) -> list[str]:
    async with store.transaction() as tx:
        return [row[0] for row in await tx.execute("SELECT item FROM orders ORDER BY id")]


async def test_rows_and_jobs_are_committed_together(store: SqliteStore) -> None:
    jobs, shown = Jobs(), []
    async with store.transaction() as tx:
        await tx.execute("INSERT INTO orders (item) VALUES (?)", ("tea",))
        await tx.add([jobs.make(), jobs.make()], lambda: shown.append(True))
        assert await tx.executemany("INSERT INTO orders (item) VALUES (?)", [("a",), ("b",)]) == 2
        assert await tx.execute("SELECT count(*) FROM orders") == [(3,)]
        assert shown == []
    assert shown == [True]
    assert await orders(store) == ["tea", "a", "b"]
    assert rows(store, "id, state") == [("job-1", "queued"), ("job-2", "queued")]


async def test_an_exception_leaves_nothing(store: SqliteStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await tx.execute("INSERT INTO orders (item) VALUES ('tea')")
            await tx.add([Jobs().make()], lambda: pytest.fail("shown but rolled back"))
            raise ZeroDivisionError
    assert await orders(store) == []
    assert rows(store, "id") == []


async def test_a_cancelled_block_leaves_nothing(store: SqliteStore) -> None:
    entered = asyncio.Event()

    async def block() -> None:
        async with store.transaction() as tx:
            await tx.execute("INSERT INTO orders (item) VALUES ('tea')")
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(block())
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await orders(store) == []


async def test_a_failed_statement_can_be_caught_and_the_block_goes_on(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        await tx.execute("INSERT INTO orders VALUES (1, 'tea')")
        with pytest.raises(sqlite3.IntegrityError):
            await tx.execute("INSERT INTO orders VALUES (1, 'again')")
        await tx.execute("SAVEPOINT here")
        await tx.execute("INSERT INTO orders VALUES (2, 'milk')")
        await tx.execute("ROLLBACK TO here")
    assert await orders(store) == ["tea"]


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "PRAGMA synchronous = OFF",
        "ATTACH 'other.db' AS other",
        "DELETE FROM worker_jobs",
        "INSERT INTO worker_schema VALUES (9)",
        "UPDATE worker_jobs SET state = 'completed'",
        "DROP TABLE worker_jobs",
        "ALTER TABLE worker_jobs ADD COLUMN mine",
        "CREATE TRIGGER mine AFTER INSERT ON worker_jobs BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER mine AFTER INSERT ON worker_jobs BEGIN SELECT 1; END",
        "CREATE TEMP TABLE worker_jobs (mine)",
        "CREATE TEMP VIEW Worker_Jobs AS SELECT 1",
        "DROP INDEX worker_jobs_done",
        "DELETE FROM worker_notes",
    ],
)
async def test_what_would_break_the_store_is_refused(store: SqliteStore, sql: str) -> None:
    await kept(store, Jobs().make())
    async with store.transaction() as tx:
        with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
            await tx.execute(sql)
        assert await tx.execute("SELECT id FROM worker_jobs") == [("job-1",)]
    assert rows(store, "id, state") == [("job-1", "queued")]


async def test_a_job_that_cannot_be_added_is_refused_and_the_block_goes_on(
    store: SqliteStore,
) -> None:
    jobs = Jobs()
    await kept(store, jobs.make(job_id="taken"))
    async with store.transaction() as tx:
        with pytest.raises(JobConflict):
            await tx.add([jobs.make(job_id="taken")], lambda: pytest.fail("shown"))
        with pytest.raises(PayloadTooLarge):
            await tx.add([jobs.make("mail", "x" * 200)], lambda: pytest.fail("shown"))
        await tx.add([jobs.make(job_id="free")], lambda: None)
    assert [row[0] for row in rows(store, "id")] == ["taken", "free"]


async def test_a_block_that_takes_too_long_is_rolled_back(store: SqliteStore) -> None:
    with pytest.raises(TransactionExpired, match=r"open for 0.1 s and was rolled back"):
        async with store.transaction(timeout_s=0.1) as tx:
            await tx.execute("INSERT INTO orders (item) VALUES ('tea')")
            await kept(store, Jobs().make())  # its commit waits for the transaction's end
            await tx.execute("INSERT INTO orders (item) VALUES ('late')")
    assert await orders(store) == []
    assert rows(store, "id") == [("job-1",)]


async def test_commits_wait_for_an_open_transaction_and_keep_their_order(
    store: SqliteStore,
) -> None:
    jobs = Jobs()
    before = store.record_accepted([jobs.make()])
    async with store.transaction() as tx:
        assert before is not None
        assert before.done()
        after = store.record_accepted([jobs.make()])
        assert after is not None
        await tx.execute("INSERT INTO orders (item) VALUES ('tea')")
        assert not after.done()
    await after
    assert await orders(store) == ["tea"]


async def test_transactions_come_one_at_a_time(store: SqliteStore) -> None:
    async def block(item: str) -> None:
        async with store.transaction() as tx:
            (count,) = (await tx.execute("SELECT count(*) FROM orders"))[0]
            await asyncio.sleep(0)
            await tx.execute("INSERT INTO orders VALUES (?, ?)", (count + 1, item))

    await asyncio.gather(*(block(str(n)) for n in range(20)))
    assert len(await orders(store)) == 20


async def test_a_transaction_inside_of_another_is_refused_at_once(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        await tx.execute("INSERT INTO orders (item) VALUES ('tea')")
        with pytest.raises(RuntimeError, match="open here already"):
            async with store.transaction():
                pytest.fail("entered")
    assert await orders(store) == ["tea"]


async def test_one_that_another_task_waits_for_ends_at_its_bound(store: SqliteStore) -> None:
    with pytest.raises(TransactionExpired):
        async with store.transaction(timeout_s=0.1) as tx:
            await tx.execute("INSERT INTO orders (item) VALUES ('tea')")
            assert await asyncio.create_task(orders(store)) == []


async def test_a_cancel_before_the_beginning_holds_nothing_up(store: SqliteStore) -> None:
    async def block() -> None:
        async with store.transaction(timeout_s=60):
            await asyncio.Event().wait()

    running = asyncio.ensure_future(block())
    await asyncio.sleep(0)  # it waits for the writer now
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(kept(store, Jobs().make()), 20)
    assert rows(store, "id") == [("job-1",)]


async def test_use_after_the_end_is_refused(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        pass
    with pytest.raises(TransactionExpired, match="has ended"):
        await tx.execute("SELECT 1")


async def test_a_full_disk_at_the_commit_leaves_nothing(tmp_path: Path) -> None:
    faults = Faults()
    store = make_store(tmp_path, connect=faults.connect)
    await store.open()
    with pytest.raises(StoreUnavailable, match="disk of the store is full"):
        async with store.transaction() as tx:
            await tx.execute("CREATE TABLE orders (item)")
            await tx.add([Jobs().make()], lambda: pytest.fail("shown"))
            faults.error = sqlite3.SQLITE_FULL
    faults.error = None
    assert rows(store, "id") == []
    await store.close()


async def test_jobs_of_a_transaction_survive_a_restart(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    async with store.transaction() as tx:
        await tx.add([jobs.make(), jobs.make()], lambda: None)
    await store.close()
    store = make_store(tmp_path)
    await store.open()
    assert ids(await recovered(store)) == ["job-1", "job-2"]
    await store.close()
