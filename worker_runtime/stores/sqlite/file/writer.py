"""The thread that owns the one writing connection: commits, keeps back, checkpoints, prunes."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, Protocol

from worker_runtime.clock.source import Clock
from worker_runtime.errors import JobConflict, StoreUnavailable
from worker_runtime.stores.sqlite.batch import Batch
from worker_runtime.stores.sqlite.file.guard import FileGuard
from worker_runtime.stores.sqlite.file.retention import Retention
from worker_runtime.stores.sqlite.file.statements import conflicting, write

logger = logging.getLogger("worker_runtime.stores")

EXIT_STATUS_FATAL = 74  # EX_IOERR of sysexits.h

_RETRY_S = 0.25
_IDLE_S = 1.0
# Commits and rows after which the log is copied into the file: some 16 MB of log.
_CHECKPOINT_COMMITS = 1000
_CHECKPOINT_ROWS = 20_000
# The lock is looked at each 64 commits, and each second in which there is none.
_LOCK_LOOKS_MASK = 63

_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FILE_FAILED = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
)


def exit_now(message: str) -> NoReturn:
    """End the process at once: after a failed fsync nothing more may be acknowledged, and a later
    fsync that succeeds proves nothing."""
    os._exit(EXIT_STATUS_FATAL)


def unavailable_reason(error: sqlite3.Error) -> str | None:
    """Why the file cannot be written now but may be later; None where the error is not of that
    kind."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in _NO_SPACE:
        return "the disk of the store is full"
    if code is not None and code & 0xFF in _BUSY:
        return "another program holds the lock of the store's file"
    return None


class Request:
    """Work for the writer's thread besides batches; `future` ends on the loop."""

    __slots__ = ("future", "work")

    def __init__(
        self, work: Callable[[sqlite3.Connection], Any], future: asyncio.Future[Any]
    ) -> None:
        self.work = work
        self.future = future


class Listener(Protocol):
    """Who is told, on the loop, what became of a batch that was put in the inbox."""

    def committed(self, batch: Batch, handed_over: Batch | None, missing: set[int]) -> None:
        """`batch` is in the file. `handed_over` is the batch that came last and is part of it.
        `missing` are places of started jobs that were never accepted."""
        ...

    def refused(self, batch: Batch, error: Callable[[], Exception]) -> None:
        """The jobs of `batch` are not kept; `error` makes what their callers are told."""
        ...

    def kept_back(self, handed_over: Batch | None, reason: str | None, results_count: int) -> None:
        """What is left of a batch, `results_count` ends of jobs and attempts among it, waits until
        `reason` has passed; None: nothing is left of it."""
        ...

    def died(self, message: str) -> None:
        """Nothing will be committed any more."""
        ...


class Writer:
    """Guarantees: batches are committed in the order they came; a full disk, or another program's
    lock, refuses new jobs and keeps everything else until it passes; any other failure of the file,
    or a commit after which its guard says that it is not in place, or not ours alone, calls
    `on_fatal`, and nothing is committed or acknowledged after it."""

    def __init__(
        self,
        open_connection: Callable[[], sqlite3.Connection],
        listener: Listener,
        *,
        retention: Retention,
        guard: FileGuard,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._open_connection = open_connection
        self._listener = listener
        self._retention = retention
        self._find_loss = guard.find_loss
        self._find_intruder = guard.find_intruder
        self._on_fatal = on_fatal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._kept: Batch | None = None
        self._is_dead = False
        self._commits_since = self._rows_since = 0
        self.inbox: SimpleQueue[Batch | Request | None] = SimpleQueue()
        self.commits = self.rows = self.checkpoints = 0
        self.last_commit_s = 0.0

    async def start(self, clock: Clock) -> None:
        """Raises what opening the connection raises."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="worker-runtime-journal", daemon=True
        )
        self._thread.start()
        await opened

    async def stop(self) -> None:
        """End the thread after what is in the inbox, and close the connection."""
        if self._thread is not None:
            self.inbox.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    # Everything below runs on the writer's thread.

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            connection = self._open_connection()
            self._retention.load(connection, self._clock)
        except BaseException as error:
            self._post(settle, opened, None, error)
            return
        self._post(settle, opened, None, None)
        try:
            self._serve(connection)
        except BaseException as error:
            self._die(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    def _serve(self, connection: sqlite3.Connection) -> None:
        while True:
            try:
                item = self.inbox.get(timeout=self._patience_s())
            except Empty:
                self._idle(connection)
                continue
            if item is None:
                break
            if isinstance(item, Batch):
                self._commit(connection, item)
            else:
                self._work(connection, item)
            self._maintain(connection, is_idle=False)
        if self._kept is not None:
            self._commit(connection, None)
        if not self._is_dead:
            self._checkpoint(connection, "TRUNCATE")

    def _patience_s(self) -> float:
        if self._kept is not None:
            return _RETRY_S
        return 0.0 if self._retention.is_due(is_idle=True) else _IDLE_S

    def _commit(self, connection: sqlite3.Connection, handed_over: Batch | None) -> None:
        if self._is_dead:
            return
        batch = handed_over
        if self._kept is not None:
            batch = self._kept
            if handed_over is not None:
                batch.absorb(handed_over)
        assert batch is not None, "called with a batch, or because one is kept back"
        began_at = self._clock.monotonic()
        try:
            missing = self._write(connection, batch)
        except sqlite3.Error as error:
            reason = unavailable_reason(error)
            if reason is None:
                self._die(f"{type(error).__name__}: {error}")
            else:
                self._keep_back(batch, handed_over, reason)
            return
        if self._is_lost():
            return
        self._kept = None
        self.last_commit_s = self._clock.monotonic() - began_at
        self._count(len(batch))
        self._retention.committed(batch)
        self._post(self._listener.committed, batch, handed_over, missing)

    def _write(self, connection: sqlite3.Connection, batch: Batch) -> set[int]:
        try:
            return write(connection, batch)
        except sqlite3.IntegrityError:
            unkept = conflicting(connection, batch)
            if not unkept:
                raise
        taken = batch.split_refusable(unkept)
        conflict = functools.partial(JobConflict, "the job id is in use")
        self._post(self._listener.refused, taken, conflict)
        return write(connection, batch)

    def _keep_back(self, batch: Batch, handed_over: Batch | None, reason: str) -> None:
        refused = batch.split_refusable()
        if refused.new:
            error = functools.partial(StoreUnavailable, reason)
            self._post(self._listener.refused, refused, error)
        if self._kept is None and len(batch):
            logger.error("%s: new jobs are refused, %d changes wait", reason, len(batch))
        self._kept = batch if len(batch) else None
        left_for = reason if len(batch) else None
        self._post(self._listener.kept_back, handed_over, left_for, len(batch.thens))

    def _work(self, connection: sqlite3.Connection, request: Request) -> None:
        if self._is_dead:
            error: BaseException = StoreUnavailable("the store has failed")
            self._post(settle, request.future, None, error)
            return
        try:
            value = request.work(connection)
        except sqlite3.Error as error:
            has_failed = getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_FAILED
            if has_failed and unavailable_reason(error) is None:
                self._die(f"{type(error).__name__}: {error}")
            self._post(settle, request.future, None, error)
        except BaseException as error:
            self._post(settle, request.future, None, error)
        else:
            if self._is_lost():
                self._post(settle, request.future, None, StoreUnavailable("the store has failed"))
                return
            self._count(1)
            self._post(settle, request.future, value, None)

    def _is_lost(self, *, is_idle: bool = False) -> bool:
        loss = self._find_loss()
        if loss is None and (is_idle or self._commits_since & _LOCK_LOOKS_MASK == 0):
            loss = self._find_intruder()
        if loss is not None:
            self._die(loss)
        return loss is not None

    def _count(self, rows: int) -> None:
        self.commits += 1
        self.rows += rows
        self._commits_since += 1
        self._rows_since += rows

    def _idle(self, connection: sqlite3.Connection) -> None:
        if self._is_dead or self._is_lost(is_idle=True):
            return
        if self._kept is not None:
            if self._commits_since:  # what the log holds may fit into the file, and free the log
                self._checkpoint(connection, "PASSIVE")
            self._commit(connection, None)
        self._maintain(connection, is_idle=True)

    def _maintain(self, connection: sqlite3.Connection, *, is_idle: bool) -> None:
        if self._is_dead or self._kept is not None:
            return
        try:
            if self._retention.is_due(is_idle=is_idle):
                self._count(self._retention.step(connection))
            is_long = (
                self._commits_since >= _CHECKPOINT_COMMITS or self._rows_since >= _CHECKPOINT_ROWS
            )
            if is_long or (is_idle and self._commits_since):
                self._checkpoint(connection, "PASSIVE")
        except sqlite3.Error as error:
            if unavailable_reason(error) is None:
                self._die(f"{type(error).__name__}: {error}")
            elif is_idle:
                time.sleep(_RETRY_S)

    def _checkpoint(self, connection: sqlite3.Connection, mode: str) -> None:
        self._commits_since = self._rows_since = 0
        self.checkpoints += 1
        try:
            connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            if unavailable_reason(error) is None:
                raise
            logger.info("the store's log was not checkpointed: %s", error)

    def _die(self, message: str) -> None:
        self._is_dead = True
        logger.critical(
            "the store has failed: %s; stopping without another acknowledgement", message
        )
        self._on_fatal(message)
        self._post(self._listener.died, message)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass


def settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    """End a future on the loop, unless its awaiter has gone away."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
