"""The application's own SQL and new jobs in one transaction, on the one writing connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.errors import JobConflict, StoreUnavailable, TransactionExpired
from worker_runtime.model.job import Job
from worker_runtime.stores.sqlite.batch import Row
from worker_runtime.stores.sqlite.file.schema import OUR_TABLES
from worker_runtime.stores.sqlite.file.statements import insert
from worker_runtime.stores.sqlite.file.writer import settle, unavailable_reason

Work = Callable[[sqlite3.Connection], Any]
Serve = Callable[[Work], Awaitable[Any]]

_FORBIDDEN = frozenset(
    {
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_PRAGMA,
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
    }
)
# Refused where they name one of our tables: what writes it, changes it, or hides it behind a
# temporary one of the same name on this connection.
_HARMFUL = frozenset(
    {
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_VTABLE,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TABLE,
    }
)

_open_here: ContextVar[StoreTransaction | None] = ContextVar("open_transaction", default=None)


class StoreTransaction:
    """An open transaction. While it is open no other change is committed, so it has a bound on its
    time: do not wait for anything slow in it, and never for a job."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        new_row: Callable[[Job], Row],
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._loop = loop
        self._monotonic = clock.monotonic
        self._new_row = new_row
        self._timeout_s = timeout_s
        self._steps: SimpleQueue[tuple[Work | None, asyncio.Future[Any] | None]] = SimpleQueue()
        self._pending: set[asyncio.Future[Any]] = set()
        self._closed: str | None = None
        self._owner = asyncio.current_task()
        self._is_ours = False
        self._thens: list[Callable[[], None]] = []
        self.began: asyncio.Future[None] = loop.create_future()

    async def execute(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. Raises sqlite3.Error; the transaction goes on.

        Refused, as sqlite3.DatabaseError: transaction control, PRAGMA, ATTACH, and writing to the
        store's own tables.
        """
        rows: list[tuple[Any, ...]] = await self._step(
            lambda connection: connection.execute(sql, parameters).fetchall()
        )
        return rows

    async def executemany(self, sql: str, rows: Iterable[Any]) -> int:
        """Run one statement for each of `rows`; returns how many rows it changed."""
        taken = list(rows)
        count: int = await self._step(
            lambda connection: connection.executemany(sql, taken).rowcount
        )
        return count

    async def add(self, jobs: Sequence[Job], then: Callable[[], None]) -> None:
        """Add new jobs. `then` is called on the loop once they are committed, and not otherwise.

        Raises InvalidArguments, PayloadTooLarge, or JobConflict where an id is taken.
        """
        rows = [self._new_row(job) for job in jobs]

        def work(connection: sqlite3.Connection) -> None:
            self._is_ours = True
            try:
                insert(connection, rows)
            finally:
                self._is_ours = False

        try:
            await self._step(work)
        except sqlite3.IntegrityError:
            taken = " or ".join(repr(job.id) for job in jobs)
            raise JobConflict(f"job id {taken} is in use") from None
        self._thens.append(then)

    async def _step(self, work: Work) -> Any:
        if self._closed is not None:
            raise TransactionExpired(self._closed)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(future)
        self._steps.put((work, future))
        try:
            return await future
        finally:
            self._pending.discard(future)

    @property
    def is_open_in_this_task(self) -> bool:
        return self._closed is None and self._owner is asyncio.current_task()

    def finish(self, *, commit: bool) -> None:
        """Tell the writer to commit or roll back after the steps so far."""
        self._closed = "the transaction has ended"
        self._steps.put((_commit if commit else None, None))

    def ended(self, committed: bool, reason: str) -> None:
        self._closed = reason
        for future in self._pending:
            settle(future, None, TransactionExpired(reason))
        if committed:
            for then in self._thens:
                then()

    def serve(self, connection: sqlite3.Connection) -> bool:
        """On the writer's thread: run the steps until the end. True: committed."""
        deadline = self._monotonic() + self._timeout_s
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.set_authorizer(self._authorize)
            self._post(self.began, None, None)
            while True:
                work, future = self._steps.get(timeout=max(0.0, deadline - self._monotonic()))
                if future is not None:
                    assert work is not None
                    self._run(connection, work, future)
                elif work is None:
                    return False
                else:
                    break
            connection.set_authorizer(None)
            connection.execute("COMMIT")
            return True
        except Empty:
            raise TransactionExpired(
                f"the transaction was open for {self._timeout_s:g} s and was rolled back"
            ) from None
        finally:
            connection.set_authorizer(None)
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _run(self, connection: sqlite3.Connection, work: Work, future: asyncio.Future[Any]) -> None:
        try:
            value = work(connection)
        except Exception as error:
            self._post(future, None, error)
            if not connection.in_transaction:  # SQLite itself rolled back: no space, or worse
                raise
        else:
            self._post(future, value, None)

    def _authorize(self, action: int, one: str | None, two: str | None, *where: Any) -> int:
        if self._is_ours:
            return sqlite3.SQLITE_OK
        touches_ours = action in _HARMFUL and any(
            name is not None and name.lower() in OUR_TABLES for name in (one, two)
        )
        return sqlite3.SQLITE_DENY if action in _FORBIDDEN or touches_ours else sqlite3.SQLITE_OK

    def _post(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(settle, future, value, error)
        except RuntimeError:  # the loop is closed
            pass


def _commit(connection: sqlite3.Connection) -> None:
    """Stands for the end of the steps."""


@asynccontextmanager
async def open_transaction(
    serve: Serve, new_row: Callable[[Job], Row], clock: Clock, timeout_s: float
) -> AsyncIterator[StoreTransaction]:
    """Begin, and at the end of the block commit; roll back where it raises.

    `serve` runs a function on the writer's thread. Raises StoreUnavailable when there is no space,
    TransactionExpired when the block took too long; then nothing of it is kept. RuntimeError inside
    of another one's block, whose end it would wait for.
    """
    outer = _open_here.get()
    if outer is not None and outer.is_open_in_this_task:
        raise RuntimeError("a transaction is open here already, and one does not fit into another")
    session = StoreTransaction(asyncio.get_running_loop(), new_row, clock, timeout_s)
    _open_here.set(session)
    served = asyncio.ensure_future(serve(session.serve))
    served.add_done_callback(lambda done: _tell(session, done))
    try:
        await asyncio.wait((served, session.began), return_when=asyncio.FIRST_COMPLETED)
        if served.done():
            _result(served)
        yield session
    except BaseException:
        session.finish(commit=False)
        await asyncio.wait((served,))
        served.exception()
        raise
    session.finish(commit=True)
    await asyncio.wait((served,))
    _result(served)


def _tell(session: StoreTransaction, served: asyncio.Future[Any]) -> None:
    error = None if served.cancelled() else served.exception()
    committed = not served.cancelled() and error is None and served.result() is True
    session.ended(committed, str(error) if error else "the transaction has ended")


def _result(served: asyncio.Future[Any]) -> None:
    try:
        served.result()
    except sqlite3.Error as error:
        reason = unavailable_reason(error)
        if reason is None:
            raise
        raise StoreUnavailable(reason) from error
