"""Group commit, the loop's side: fills a batch while the writer commits the one before.

Handing over is the loop's work alone, so that a batch never has two owners and nothing is locked.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from worker_runtime.clock.source import Clock
from worker_runtime.errors import StoreUnavailable
from worker_runtime.stores.sqlite.batch import Batch, Row
from worker_runtime.stores.sqlite.file.guard import FileGuard
from worker_runtime.stores.sqlite.file.retention import Retention
from worker_runtime.stores.sqlite.file.writer import Request, Writer, exit_now
from worker_runtime.stores.sqlite.rows import Columns

logger = logging.getLogger("worker_runtime.stores")

T = TypeVar("T")

# Batches at the writer: the one being committed and the next, so that it need not wait for a busy
# loop. More would make the batches small.
_HANDED_OVER_MAX = 2
_CHANGES_AT_ONCE = 256


class Journal:
    """Collects changes and has them committed together.

    Guarantees: what is recorded later is never durable earlier, and nothing is acknowledged before
    the commit that holds it has returned. `unavailable` says why new jobs are refused, if they are.
    """

    def __init__(
        self,
        open_connection: Callable[[], sqlite3.Connection],
        *,
        retention: Retention,
        guard: FileGuard,
        on_fatal: Callable[[str], None] = exit_now,
    ) -> None:
        self.writer = Writer(
            open_connection, self, retention=retention, guard=guard, on_fatal=on_fatal
        )
        self.unavailable: str | None = None
        self._batch = Batch()
        self._handed_over: list[Batch] = []
        self._kept_back_count = 0
        self._is_scheduled = False
        self._records = self._records_before = 0
        self._leaves_by = 0.0
        self._is_dead = False
        self._is_closed = True
        self._returned = asyncio.Event()

    async def open(self, clock: Clock) -> None:
        """Start the writer. Raises ConfigurationError."""
        self._loop = asyncio.get_running_loop()
        self._monotonic = clock.monotonic
        await self.writer.start(clock)
        self._is_closed = False

    def accept(self, rows: Sequence[Row], *, acknowledge_now: bool) -> asyncio.Future[None] | None:
        """Record new jobs. The future ends when they are kept; None, with `acknowledge_now`: they
        cannot be refused any more."""
        if self.unavailable is None and acknowledge_now:
            self._batch.accept(rows, None)
            self._touch()
            return None
        future = self._loop.create_future()
        if self.unavailable is not None:
            future.set_exception(StoreUnavailable(self.unavailable))
        else:
            self._batch.accept(rows, future)
            self._touch()
        return future

    def start(self, place: int, columns: Columns) -> asyncio.Future[None]:
        future = self._loop.create_future()
        if self._is_dead:
            future.set_exception(StoreUnavailable("the store has failed"))
            return future
        self._batch.change(place, columns)
        self._batch.start_futures[place] = future
        self._touch()
        return future

    def change(self, place: int, columns: Columns, then: Callable[[], None]) -> None:
        batch = self._batch
        batch.change(place, columns)
        batch.thens[place] = then
        if (
            len(batch.changes) >= _CHANGES_AT_ONCE
            and not batch.new
            and len(self._handed_over) < _HANDED_OVER_MAX
        ):
            self._hand_over()  # the writer begins while the loop goes on with this burst
        else:
            self._touch()

    def revive(self, row: Row, then: Callable[[], None]) -> None:
        self._batch.revive(row)
        self._batch.thens[row[0]] = then
        self._touch()

    def count_ended(self, queue: str, is_failed: bool) -> None:
        """The change that is recorded next ends a job of `queue`."""
        self._batch.ended[queue, is_failed] += 1

    def acceptance_of(self, place: int) -> asyncio.Future[None] | None:
        """A future for one more caller that waits until a job is kept; None where it is already, or
        was acknowledged without."""
        for batch in (self._batch, *self._handed_over):
            accept = batch.accept_of(place)
            if accept is not None and accept.future is not None:
                future = self._loop.create_future()
                accept.others = [*(accept.others or ()), future]
                return future
        return None

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the writer's thread, after what was recorded before it. Raises what it
        raises, StoreUnavailable before `open` and after `close`."""
        if self._is_closed:
            raise StoreUnavailable("the store is not open")
        future: asyncio.Future[T] = self._loop.create_future()
        self._hand_over()
        self.writer.inbox.put(Request(work, future))
        return await future

    async def close(self, within_s: float) -> None:
        """Commit what is recorded and end the writer.

        What a full disk still keeps back after `within_s` seconds is given up: nobody was told of
        it, so that its jobs run again in the next life.
        """
        try:
            async with asyncio.timeout(within_s):
                while not self._is_dead and self._is_waiting:
                    self._returned.clear()
                    self._touch()
                    await self._returned.wait()
        except TimeoutError:
            logger.error("the store is closed with changes unwritten: %s", self.unavailable)
        self._is_closed = True
        self.unavailable = self.unavailable or "the store is closed"
        await self.writer.stop()

    @property
    def results_held_back(self) -> int:
        """Ends of jobs and attempts that are not committed yet."""
        batches = (self._batch, *self._handed_over)
        return self._kept_back_count + sum(len(batch.thens) for batch in batches)

    @property
    def _is_waiting(self) -> bool:
        return bool(len(self._batch) or self._handed_over or self.unavailable)

    def _touch(self) -> None:
        """Hand the batch over after a turn of the loop that adds nothing to it, at the latest once
        it has grown for as long as the last commit took.

        In the next turn the slots that a new job has woken record its start, which then shares its
        row and its commit; and callers that were answered together come back one after the other,
        within a few turns. The bound lets some of them go on while the others' commit runs.
        """
        self._records += 1
        if not self._is_scheduled and len(self._handed_over) < _HANDED_OVER_MAX:
            self._leaves_by = self._monotonic() + self.writer.last_commit_s
            self._loop.call_soon(self._loop.call_soon, self._flush)
            self._is_scheduled = True

    def _flush(self) -> None:
        if self._records != self._records_before and self._monotonic() < self._leaves_by:
            self._records_before = self._records
            self._loop.call_soon(self._flush)
            return
        self._is_scheduled = False
        if len(self._handed_over) < _HANDED_OVER_MAX:
            self._hand_over()

    def _hand_over(self) -> None:
        if len(self._batch) and not self._is_dead:
            batch, following = self._batch, Batch()
            self.writer.inbox.put(batch)
            self._batch = following
            self._handed_over.append(batch)

    # What the writer reports; called on the loop.

    def committed(self, batch: Batch, handed_over: Batch | None, missing: set[int]) -> None:
        for accept in batch.accepts:
            for future in accept.waiting():
                future.set_result(None)
        for place, future in batch.start_futures.items():
            if future.done():  # its awaiter was cancelled
                continue
            if place in missing:
                future.set_exception(StoreUnavailable("the job was not accepted"))
            else:
                future.set_result(None)
        self._show(batch)
        self.kept_back(handed_over, None, 0)

    def refused(self, batch: Batch, error: Callable[[], Exception]) -> None:
        self._fail(batch, error)
        self._show(batch)

    def kept_back(self, handed_over: Batch | None, reason: str | None, results_count: int) -> None:
        self._kept_back_count = results_count
        if not self._is_closed:
            self.unavailable = reason
        if handed_over is not None:
            self._handed_over.remove(handed_over)
        self._returned.set()
        self._touch()

    def died(self, message: str) -> None:
        self._is_dead = True
        self.unavailable = f"the store has failed: {message}"
        error = functools.partial(StoreUnavailable, self.unavailable)
        for batch in (*self._handed_over, self._batch):
            self._fail(batch, error)
        self._returned.set()

    def _fail(self, batch: Batch, error: Callable[[], Exception]) -> None:
        for accept in batch.accepts:
            for future in accept.waiting():
                future.set_exception(error())
        for future in batch.start_futures.values():
            if not future.done():
                future.set_exception(error())

    def _show(self, batch: Batch) -> None:
        for then in batch.thens.values():
            try:
                then()
            except Exception:
                logger.exception("a recorded change could not be shown")
