"""Writes a batch in few statements of many rows each.

Every call into SQLite gives up the interpreter's lock and has to win it back from a busy event
loop, so that one statement for 256 rows is worth far more than its parsing. The sizes are few, so
that the statements stay prepared; a smaller number of rows is filled up with rows for place 0,
which no job has.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from worker_runtime.stores.sqlite.batch import Accept, Batch, Row
from worker_runtime.stores.sqlite.rows import ALL, CHANGING, NO_TIME, STANDS_FOR_NULL

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SIZE_MAX = _SIZES[-1]

_Statement = tuple[str, list[Any]]


def _values(width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * size)


def _value(name: str, source: str) -> str:
    """What to write of the value in `source`, for the column `name`."""
    absent = STANDS_FOR_NULL.get(name)
    if absent is None:
        return source
    return f"NULLIF({source}, {absent})" if absent == NO_TIME else f"NULLIF({source}, x'')"


def _insertion(size: int) -> str:
    values = ", ".join(_value(name, f"column{n}") for n, name in enumerate(ALL, start=1))
    return (
        f"INSERT INTO worker_jobs ({', '.join(ALL)}) "
        f"SELECT {values} FROM (VALUES {_values(len(ALL), size)}) WHERE column1 > 0"
    )


# A terminal state never changes: the guard is part of the statement that changes rows.
def _change(size: int) -> str:
    assignments = ", ".join(
        f"{name} = {_value(name, f'v.column{n}')}" for n, name in enumerate(CHANGING, start=2)
    )
    return (
        f"UPDATE worker_jobs SET {assignments} "
        f"FROM (VALUES {_values(1 + len(CHANGING), size)}) AS v "
        "WHERE worker_jobs.place = v.column1 AND worker_jobs.ended_at IS NULL"
    )


_INSERT = {size: _insertion(size) for size in _SIZES}
_CHANGE = {size: _change(size) for size in _SIZES}


def _in_sizes(statements: dict[int, str], rows: Sequence[Sequence[Any]]) -> Iterator[_Statement]:
    for first in range(0, len(rows), _SIZE_MAX):
        part = rows[first : first + _SIZE_MAX]
        size = 1 << (len(part) - 1).bit_length()
        values = list(chain.from_iterable(part))
        if len(part) < size:
            values += [0] * (len(part[0]) * (size - len(part)))
        yield statements[size], values


def write(connection: sqlite3.Connection, batch: Batch) -> set[int]:
    """Commit `batch` in one transaction.

    Returns the places of started jobs that the file does not have: they were never accepted.
    Raises sqlite3.Error, and then nothing of the batch is in the file.
    """
    changes = [(place, *columns) for place, columns in batch.changes.items()]
    statements = [*_insertions(batch.new.values()), *_in_sizes(_CHANGE, changes)]
    if len(statements) == 1 and not batch.revived:  # a transaction of its own
        written = connection.execute(*statements[0]).rowcount
    else:
        with Transaction(connection):
            revived = _revive(connection, batch)
            written = sum(connection.execute(*statement).rowcount for statement in statements)
        batch.ended.subtract(revived)
    return set() if written == len(batch.new) + len(changes) else _missing(connection, batch)


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
    starts = [place for place in batch.start_futures if place in batch.changes]
    return {
        place
        for place in starts
        if not connection.execute(
            "SELECT 1 FROM worker_jobs WHERE place = ? AND state = ?",
            (place, batch.changes[place][0]),
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
