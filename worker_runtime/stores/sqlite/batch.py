"""What is recorded between two commits: one entry per job, the newest state winning.

Filled on the event loop's thread; from the moment it is handed over, only the writer touches it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from worker_runtime.stores.sqlite.rows import Columns, change_row

Row = list[Any]
"""The columns `rows.ALL` of a row to be written whole; the first is the place."""


class Accept(msgspec.Struct, gc=False, eq=False):
    """Jobs accepted together: all are kept or none. `future` is None where they were acknowledged
    before they are kept, so that they cannot be refused any more. `others` are the futures of
    callers that asked for the same jobs; each has its own, because a caller may cancel it."""

    places: Sequence[int]
    future: asyncio.Future[None] | None
    others: list[asyncio.Future[None]] | None = None

    def waiting(self) -> Iterator[asyncio.Future[None]]:
        """The futures that nobody has cancelled."""
        for future in (self.future, *(self.others or ())):
            if future is not None and not future.done():
                yield future


class Batch:
    """Changes to be committed together. The keys are places.

    new      rows that the file does not have yet
    revived  rows of ended jobs that run again, whether or not the file still has them
    changes  changing columns of rows that the file has
    ended    how many more ended jobs there are, by (queue, is_failed)

    Assumes that nothing is recorded of a job between a change of it and the commit of that change.
    """

    __slots__ = (
        "accepts",
        "changes",
        "ended",
        "new",
        "revived",
        "start_futures",
        "thens",
    )

    def __init__(self) -> None:
        self.new: dict[int, Row] = {}
        self.revived: dict[int, Row] = {}
        self.changes: dict[int, Columns] = {}
        self.ended: Counter[tuple[str, bool]] = Counter()
        self.accepts: list[Accept] = []
        self.start_futures: dict[int, asyncio.Future[None]] = {}
        self.thens: dict[int, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self.new) + len(self.revived) + len(self.changes)

    def accept(self, rows: Sequence[Row], future: asyncio.Future[None] | None) -> None:
        for row in rows:
            self.new[row[0]] = row
        self.accepts.append(Accept([row[0] for row in rows], future))

    def change(self, place: int, columns: Columns) -> None:
        row = self.new.get(place)
        if row is not None:
            change_row(row, columns)
        else:
            self.changes[place] = columns

    def revive(self, row: Row) -> None:
        self.revived[row[0]] = row

    def accept_of(self, place: int) -> Accept | None:
        """The acceptance of a new job in this batch."""
        if place not in self.new:
            return None
        return next((accept for accept in self.accepts if place in accept.places), None)

    def absorb(self, newer: Batch) -> None:
        """Take over everything from a batch recorded after this one."""
        self.new.update(newer.new)
        self.revived.update(newer.revived)
        for place, columns in newer.changes.items():
            self.change(place, columns)
        self.ended.update(newer.ended)
        self.accepts += newer.accepts
        self.start_futures.update(newer.start_futures)
        self.thens.update(newer.thens)

    def split_refusable(self, unkept: Sequence[Accept] | None = None) -> Batch:
        """Take out the accepts that may still be refused, with all that depends on them.

        `unkept` names them; without it, every accept that nobody was told of.
        """
        if unkept is None:
            unkept = [accept for accept in self.accepts if accept.future is not None]
        refused = Batch()
        refused.accepts = list(unkept)
        gone = set(map(id, unkept))
        self.accepts = [accept for accept in self.accepts if id(accept) not in gone]
        for accept in unkept:
            for place in accept.places:
                refused.new[place] = self.new.pop(place)
                if place in self.start_futures:
                    refused.start_futures[place] = self.start_futures.pop(place)
                if place in self.thens:
                    refused.thens[place] = self.thens.pop(place)
        return refused
