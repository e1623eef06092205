"""The jobs in the file, for whoever looks: one by id, pages of them, and the dead letters."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from worker_runtime.errors import InvalidTransition
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import revival
from worker_runtime.model.states import RETRYABLE_STATES, State
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.stores.boundary import LOOKS_ONLY, parked
from worker_runtime.stores.sqlite.batch import Batch
from worker_runtime.stores.sqlite.file.reader import Reader
from worker_runtime.stores.sqlite.file.retention import Retention
from worker_runtime.stores.sqlite.file.statements import write
from worker_runtime.stores.sqlite.rows import (
    ALL,
    FIXED,
    Columns,
    changed_columns,
    decode_job,
    late_options,
    unique_key_in,
)

Work = Callable[[sqlite3.Connection], Any]

IDS_MAX = 1000

_COLUMNS = ", ".join(ALL)
_OPTIONS = ALL.index("options")
_RETRYABLE = ", ".join(f"'{state}'" for state in sorted(RETRYABLE_STATES))


class Archive:
    """`tasks` gives the definition for a name; until it is set, every task counts as gone."""

    def __init__(
        self, reader: Reader, call: Callable[[Work], Awaitable[Any]], retention: Retention
    ) -> None:
        self._reader = reader
        self._call = call
        self._retention = retention
        self.tasks: Callable[[str], TaskDefinition] = parked
        self.clock = LOOKS_ONLY.clock

    async def find(self, job_id: str) -> Job | None:
        """The ended job with that id. Unfinished ones are in memory."""
        rows = await self._reader.rows(
            f"SELECT {_COLUMNS} FROM worker_jobs WHERE id = ? AND ended_at IS NOT NULL", (job_id,)
        )
        return decode_job(rows[0], self.tasks, checked=False) if rows else None

    async def look(self, job_id: str) -> Job | None:
        """The job with that id in whatever state was committed; for who looks at the file alone."""
        rows = await self._reader.rows(
            f"SELECT {_COLUMNS} FROM worker_jobs WHERE id = ?", (job_id,)
        )
        return decode_job(rows[0], self.tasks, checked=False) if rows else None

    async def page(
        self,
        *,
        states: Sequence[State] = (),
        queue: str | None = None,
        task: str | None = None,
        limit: int = 100,
        below: int | None = None,
    ) -> list[Job]:
        """Up to `limit` jobs that match, newest first, of those whose `order` is under `below`.

        As committed: what is still being recorded shows its former state.
        """
        conditions = ["place < ?"]
        parameters: list[Any] = [below if below is not None else 1 << 62]
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            parameters += [state.value for state in states]
        if queue is not None:
            conditions.append("queue = ?")
            parameters.append(queue)
        if task is not None:
            conditions.append("task = ?")
            parameters.append(task)
        rows = await self._reader.rows(
            f"SELECT {_COLUMNS} FROM worker_jobs WHERE {' AND '.join(conditions)} "
            "ORDER BY place DESC LIMIT ?",
            (*parameters, limit),
        )
        return [decode_job(row, self.tasks, checked=False) for row in rows]

    async def delete(self, job_ids: Sequence[str]) -> int:
        """Delete the ended ones of these jobs (at most `IDS_MAX`); returns how many there were."""
        ids = _bounded(job_ids)

        def work(connection: sqlite3.Connection) -> int:
            gone = connection.execute(
                f"DELETE FROM worker_jobs WHERE id IN ({', '.join('?' * len(ids))}) "
                "AND ended_at IS NOT NULL RETURNING queue, state = 'failed'",
                ids,
            ).fetchall()
            for queue, is_failed in gone:
                self._retention.forgotten(queue, bool(is_failed))
            return len(gone)

        count: int = await self._call(work)
        return count

    async def revive(self, job_ids: Sequence[str], *, all_or_none: bool = False) -> list[str]:
        """Queue the failed and cancelled ones of these jobs (at most `IDS_MAX`) again, with a fresh
        budget; returns their ids. For a store that no runtime works on: the next to open it runs
        them. With a runtime, ask the runtime.

        One whose unique key an unfinished job has, also an older one of these, is passed over; with
        `all_or_none` it raises InvalidTransition, and none is queued.
        """
        ids = _bounded(job_ids)

        def work(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM worker_jobs WHERE id IN ({', '.join('?' * len(ids))}) "
                f"AND state IN ({_RETRYABLE}) ORDER BY place",
                ids,
            ).fetchall()
            keyless = _without_held_keys(connection, rows)
            if all_or_none and len(keyless) < len(rows):
                held = next(row for row in rows if row not in keyless)
                key = unique_key_in(held[_OPTIONS])
                raise InvalidTransition(f"job {held[1]}: another has its unique key {key!r} now")
            batch = Batch()
            for row in keyless:
                job = decode_job(row, self.tasks, checked=False)
                changed = changed_columns(job, revival(job, self.clock.wall()))
                fixed = list(row[: len(FIXED)])
                fixed[_OPTIONS] = late_options(row[_OPTIONS])
                batch.revive([*fixed, *changed])
            write(connection, batch)
            self._retention.committed(batch)
            return [row[1] for row in keyless]

        queued: list[str] = await self._call(work)
        return queued


def _without_held_keys(
    connection: sqlite3.Connection, rows: Sequence[Columns]
) -> Sequence[Columns]:
    """Those of the rows whose unique key no unfinished job has, nor one of the rows before."""
    keys = [unique_key_in(row[_OPTIONS]) for row in rows]
    if not any(keys):
        return rows
    unfinished = connection.execute(
        "SELECT options FROM worker_jobs WHERE ended_at IS NULL AND options IS NOT NULL"
    )
    held = {unique_key_in(options) for (options,) in unfinished} - {None}
    free = []
    for row, key in zip(rows, keys, strict=True):
        if key is None or key not in held:
            free.append(row)
            held.add(key)
    return free


def _bounded(job_ids: Sequence[str]) -> list[str]:
    if len(job_ids) > IDS_MAX:
        raise ValueError(f"at most {IDS_MAX} job ids at a time, not {len(job_ids)}")
    return list(job_ids)
