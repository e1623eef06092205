"""Writes a batch in few statements of many rows each.

Every call into SQLite gives up the interpreter's lock and has to win it back from a busy event
loop, so that one statement for 256 rows is worth far more than its parsing. The sizes are few, so
that the statements stay prepared; a smaller number of rows is filled up with rows of NULL, which no
statement takes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from worker_runtime.stores.batch import Accept, Batch, Row
from worker_runtime.stores.records import ALL, CHANGING

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SIZE_MAX = _SIZES[-1]

_Statement = tuple[str, list[Any]]


def _row(width: int) -> str:
    return f"({', '.join('?' * width)})"


def _inserts(size: int) -> str:
    values = ", ".join([_row(len(ALL))] * size)
    return (
        f"INSERT INTO worker_jobs ({', '.join(ALL)}) "
        f"SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"
    )


# A terminal state never changes: the guard is part of every statement that changes a row.
def _updates(columns: Sequence[str], fixed: str, size: int) -> str:
    assignments = ", ".join(f"{name} = v.column{n}" for n, name in enumerate(columns, start=2))
    values = ", ".join([_row(len(columns) + 1)] * size)
    return (
        f"UPDATE worker_jobs SET {fixed}{assignments} FROM (VALUES {values}) AS v "
        "WHERE worker_jobs.place = v.column1 AND worker_jobs.ended_at IS NULL"
    )


_INSERT = {size: _inserts(size) for size in _SIZES}
_CHANGE = {size: _updates(CHANGING, "", size) for size in _SIZES}
_START = {size: _updates(("attempt", "started_at"), "state = 'running', ", size) for size in _SIZES}


def _in_sizes(statements: dict[int, str], rows: Sequence[Sequence[Any]]) -> Iterator[_Statement]:
    for first in range(0, len(rows), _SIZE_MAX):
        part = rows[first : first + _SIZE_MAX]
        size = 1 << (len(part) - 1).bit_length()
        values = list(chain.from_iterable(part))
        if len(part) < size:
            values += [None] * (len(part[0]) * (size - len(part)))
        yield statements[size], values


def write(connection: sqlite3.Connection, batch: Batch) -> set[int]:
    """Commit `batch` in one transaction.

    Returns the places of started jobs that the file does not have: they were never accepted.
    Raises sqlite3.Error, and then nothing of the batch is in the file.
    """
    starts = [(place, *start) for place, start in batch.starts.items()]
    statements = [
        *_insertions(batch.new.values()),
        *_in_sizes(_CHANGE, [(place, *row) for place, row in batch.changes.items()]),
    ]
    if len(statements) == 1 and not starts and not batch.revived:
        connection.execute(*statements[0])  # a transaction of its own
        return set()
    with Transaction(connection):
        revived = _revive(connection, batch)
        for statement in statements:
            connection.execute(*statement)
        started = sum(connection.execute(*s).rowcount for s in _in_sizes(_START, starts))
        missing = set() if started == len(starts) else _missing(connection, batch)
    batch.ended.subtract(revived)
    return missing


def insert(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Add new rows, inside a transaction that somebody else ends."""
    for statement in _insertions(rows):
        connection.execute(*statement)


def _insertions(rows: Iterable[Row]) -> Iterator[_Statement]:
    return _in_sizes(_INSERT, list(rows))


def _revive(connection: sqlite3.Connection, batch: Batch) -> Counter[tuple[str, bool]]:
    """How many ended jobs the file no longer has, by (queue, is_failed)."""
    revived: Counter[tuple[str, bool]] = Counter()
    for place, row in batch.revived.items():
        gone = connection.execute(
            "DELETE FROM worker_jobs WHERE place = ? RETURNING queue, state = 'failed'", (place,)
        ).fetchall()
        for queue, is_failed in gone:
            revived[queue, bool(is_failed)] += 1
        connection.execute(_INSERT[1], row)
    return revived


def _missing(connection: sqlite3.Connection, batch: Batch) -> set[int]:
    return {
        place
        for place in batch.starts
        if not connection.execute(
            "SELECT 1 FROM worker_jobs WHERE place = ? AND state = 'running'", (place,)
        ).fetchone()
    }


def conflicting(connection: sqlite3.Connection, batch: Batch) -> list[Accept]:
    """The accepts of `batch` whose job ids are taken, in the file or by an earlier one."""
    taken: set[str] = set()
    found = []
    for accept in batch.accepts:
        ids = [batch.new[place][1] for place in accept.places]
        is_taken = not taken.isdisjoint(ids) or len(set(ids)) < len(ids)
        for job_id in ids:
            row = connection.execute("SELECT 1 FROM worker_jobs WHERE id = ?", (job_id,))
            is_taken = row.fetchone() is not None or is_taken
        if is_taken:
            found.append(accept)
        else:
            taken.update(ids)
    return found


class Transaction:
    """`BEGIN IMMEDIATE` to `COMMIT`; whatever is raised in between, also by the commit, rolls
    back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
