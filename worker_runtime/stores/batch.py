"""What is recorded between two commits: one entry per job, the newest state winning.

Filled on the event loop's thread; from the moment it is handed over, only the writer touches it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from worker_runtime.stores.records import Columns, started_columns


class Accept:
    """Jobs accepted together: all are kept or none. `future` is None where they were acknowledged
    before they are kept, so that they cannot be refused any more."""

    __slots__ = ("future", "places")

    def __init__(self, places: Sequence[int], future: asyncio.Future[None] | None) -> None:
        self.places = places
        self.future = future


class NewRow:
    """A row that the file does not have yet."""

    __slots__ = ("changing", "fixed")

    def __init__(self, fixed: Columns, changing: Columns) -> None:
        self.fixed = fixed
        self.changing = changing


class Batch:
    """Changes to be committed together. The keys are places.

    new      rows to insert
    revived  ended jobs that run again: rows to write whole, whether or not the file still has them
    changes  changing columns of rows that the file has
    starts   (attempt, started_at) of rows that the file has, applied last
    ended    how many more ended jobs there are, by (queue, is_failed)
    """

    __slots__ = (
        "accepts",
        "changes",
        "ended",
        "new",
        "revived",
        "start_futures",
        "starts",
        "thens",
    )

    def __init__(self) -> None:
        self.new: dict[int, NewRow] = {}
        self.revived: dict[int, NewRow] = {}
        self.changes: dict[int, Columns] = {}
        self.starts: dict[int, tuple[int, float | None]] = {}
        self.ended: Counter[tuple[str, bool]] = Counter()
        self.accepts: list[Accept] = []
        self.start_futures: list[tuple[int, asyncio.Future[None]]] = []
        self.thens: list[tuple[int, Callable[[], None]]] = []

    def __len__(self) -> int:
        return len(self.new) + len(self.revived) + len(self.changes) + len(self.starts)

    def accept(self, rows: Sequence[NewRow], future: asyncio.Future[None] | None) -> None:
        places = [row.fixed[0] for row in rows]
        self.new.update(zip(places, rows, strict=True))
        self.accepts.append(Accept(places, future))

    def start(self, place: int, attempt: int, started_at: float | None) -> None:
        row = self.new.get(place) or self.revived.get(place)
        if row is not None:
            row.changing = started_columns(row.changing, attempt, started_at)
        else:
            self.starts[place] = (attempt, started_at)

    def change(self, place: int, columns: Columns) -> None:
        row = self.new.get(place) or self.revived.get(place)
        if row is not None:
            row.changing = columns
        else:
            self.starts.pop(place, None)
            self.changes[place] = columns

    def revive(self, place: int, row: NewRow) -> None:
        known = self.new.get(place)
        if known is not None:
            known.changing = row.changing
        else:
            self.starts.pop(place, None)
            self.changes.pop(place, None)
            self.revived[place] = row

    def future_of(self, place: int) -> asyncio.Future[None] | None:
        """What the acceptance of a job in this batch waits for; None where it does not wait."""
        if place in self.new:
            for accept in self.accepts:
                if place in accept.places:
                    return accept.future
        return None

    def absorb(self, newer: Batch) -> None:
        """Take over everything from a batch recorded after this one."""
        self.new.update(newer.new)
        for place, row in newer.revived.items():
            self.revive(place, row)
        for place, columns in newer.changes.items():
            self.change(place, columns)
        for place, (attempt, started_at) in newer.starts.items():
            self.start(place, attempt, started_at)
        self.ended.update(newer.ended)
        self.accepts += newer.accepts
        self.start_futures += newer.start_futures
        self.thens += newer.thens

    def split_refusable(self, unkept: Sequence[Accept] | None = None) -> Batch:
        """Take out the accepts that may still be refused, with all that depends on them.

        `unkept` names them; without it, every accept that nobody was told of.
        """
        if unkept is None:
            unkept = [accept for accept in self.accepts if accept.future is not None]
        refused = Batch()
        for accept in unkept:
            for place in accept.places:
                refused.new[place] = self.new.pop(place)
        gone = refused.new
        kept = set(self.accepts).difference(unkept)
        refused.accepts = list(unkept)
        refused.start_futures = [entry for entry in self.start_futures if entry[0] in gone]
        refused.thens = [entry for entry in self.thens if entry[0] in gone]
        self.accepts = [accept for accept in self.accepts if accept in kept]
        self.start_futures = [entry for entry in self.start_futures if entry[0] not in gone]
        self.thens = [entry for entry in self.thens if entry[0] not in gone]
        return refused
