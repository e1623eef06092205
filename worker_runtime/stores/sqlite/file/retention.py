"""Deletes ended jobs by age and count, in small steps between commits."""

from __future__ import annotations

import sqlite3
from collections import Counter

from worker_runtime.clock.source import Clock
from worker_runtime.stores.sqlite.batch import Batch
from worker_runtime.stores.sqlite.file.statements import Transaction

_STEP_ROWS = 500
_EXCESS_WHILE_BUSY = 250
_AGE_INTERVAL_S = 5.0

# The conditions of the partial indexes, word for word: SQLite must see that they are the same.
_LINES = {
    False: ("worker_jobs_done", "state IN ('completed', 'cancelled')"),
    True: ("worker_jobs_failed", "state = 'failed'"),
}


class Retention:
    """Keeps at most `count_max` completed or cancelled jobs a queue, and as many failed ones of
    their own (a flood of successes must not wash the dead letters away), each for `ttl_s` seconds
    or its own time to live. Used on the writer's thread only."""

    def __init__(self, *, count_max: int, ttl_s: float) -> None:
        self._count_max = count_max
        self._ttl_s = ttl_s
        self._counts: Counter[tuple[str, bool]] = Counter()

    def load(self, connection: sqlite3.Connection, clock: Clock) -> None:
        """Count what the file holds. Comes before `is_due` and `step`."""
        self._clock = clock
        self._age_checked_at = clock.monotonic()
        for is_failed, (index, condition) in _LINES.items():
            for queue, count in connection.execute(
                f"SELECT queue, count(*) FROM worker_jobs INDEXED BY {index} "
                f"WHERE {condition} GROUP BY queue"
            ):
                self._counts[queue, is_failed] = count

    def committed(self, batch: Batch) -> None:
        if batch.ended:
            self._counts.update(batch.ended)

    def forgotten(self, queue: str, is_failed: bool) -> None:
        """An ended job was deleted, or runs again, outside of a batch."""
        self._counts[queue, is_failed] -= 1

    def is_due(self, *, is_idle: bool) -> bool:
        excess_max = 0 if is_idle else _EXCESS_WHILE_BUSY
        if any(count > self._count_max + excess_max for count in self._counts.values()):
            return True
        return self._clock.monotonic() - self._age_checked_at > _AGE_INTERVAL_S

    def step(self, connection: sqlite3.Connection) -> bool:
        """Delete some of what is too much or too old. False: nothing more is due."""
        now = self._clock.wall()
        deleted = 0
        with Transaction(connection):
            for (queue, is_failed), count in self._counts.items():
                excess = count - self._count_max
                if excess > 0:
                    deleted += self._delete_oldest(connection, queue, is_failed, now + 1e9, excess)
                deleted += self._delete_oldest(
                    connection, queue, is_failed, now - self._ttl_s, _STEP_ROWS
                )
            deleted += self._delete(
                connection,
                "SELECT place FROM worker_jobs INDEXED BY worker_jobs_keep "
                "WHERE keep_until IS NOT NULL AND keep_until < ? LIMIT ?",
                (now, _STEP_ROWS),
            )
        if deleted < _STEP_ROWS:
            self._age_checked_at = self._clock.monotonic()
        return deleted >= _STEP_ROWS

    def _delete_oldest(
        self,
        connection: sqlite3.Connection,
        queue: str,
        is_failed: bool,
        ended_before: float,
        limit: int,
    ) -> int:
        index, condition = _LINES[is_failed]
        return self._delete(
            connection,
            f"SELECT place FROM worker_jobs INDEXED BY {index} WHERE {condition} "
            "AND queue = ? AND ended_at < ? ORDER BY ended_at LIMIT ?",
            (queue, ended_before, min(limit, _STEP_ROWS)),
        )

    def _delete(
        self, connection: sqlite3.Connection, places: str, parameters: tuple[object, ...]
    ) -> int:
        gone = connection.execute(
            f"DELETE FROM worker_jobs WHERE place IN ({places}) RETURNING queue, state = 'failed'",
            parameters,
        ).fetchall()
        for queue, is_failed in gone:
            self._counts[queue, bool(is_failed)] -= 1
        return len(gone)
