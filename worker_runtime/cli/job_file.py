"""The jobs in a store's file, for the command line: looked at beside a worker, changed without one.

Documents are what the native API answers for the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from worker_runtime.errors import InvalidTransition, UnknownJob
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.snapshot import describe, detail_of
from worker_runtime.model.states import RETRYABLE_STATES, TERMINAL_STATES, State
from worker_runtime.stores.sqlite.archive import IDS_MAX, Archive
from worker_runtime.stores.sqlite.offline import open_alone, open_offline
from worker_runtime.stores.sqlite.store import parse_url

Document = dict[str, Any]
Act = Callable[[Archive, Sequence[str]], Awaitable[Sequence[str]]]


def path_of(store: str) -> str:
    """The file that a store's URL names. Raises ConfigurationError."""
    return parse_url(store)[0]


def page_of(path: str, wanted: JobFilter, limit: int, below: int | None) -> Document:
    """Up to `limit` jobs whose place is under `below`, newest first. Raises ConfigurationError,
    StoreUnavailable."""

    async def read() -> Document:
        async with open_offline(path) as archive:
            found = await archive.page(
                states=tuple(wanted.states),
                queue=wanted.queue,
                task=wanted.task,
                limit=limit + 1,
                below=below,
            )
        cursor = str(found[limit - 1].order) if len(found) > limit else None
        jobs = [msgspec.to_builtins(describe(job)) for job in found[:limit]]
        return {"jobs": jobs, "cursor": cursor}

    return asyncio.run(read())


def job_of(path: str, job_id: str) -> Document:
    """Raises UnknownJob besides what `page_of` raises."""

    async def read() -> Document:
        async with open_offline(path) as archive:
            job = await archive.look(job_id)
        if job is None:
            raise _unknown(job_id)
        document: Document = msgspec.to_builtins(detail_of(job))
        return document

    return asyncio.run(read())


def retry_in(path: str, job_ids: Sequence[str], wanted: JobFilter) -> Document:
    """Queue jobs again for the next worker that opens the file: those named, or without a name
    those `wanted`, up to 1,000. Raises UnknownJob and InvalidTransition, besides what `page_of`
    raises; then none is queued."""

    async def revive(archive: Archive, ids: Sequence[str]) -> Sequence[str]:
        return await archive.revive(ids, all_or_none=bool(job_ids))

    return _act_on(path, job_ids, wanted, RETRYABLE_STATES, revive)


def delete_in(path: str, job_ids: Sequence[str], wanted: JobFilter) -> Document:
    """Forget ended jobs, named or wanted like those of `retry_in`."""

    async def delete(archive: Archive, ids: Sequence[str]) -> Sequence[str]:
        await archive.delete(ids)
        return ids

    return _act_on(path, job_ids, wanted, TERMINAL_STATES, delete)


def _act_on(
    path: str, job_ids: Sequence[str], wanted: JobFilter, allowed: frozenset[State], act: Act
) -> Document:
    async def run() -> Document:
        async with open_alone(path) as archive:
            for job_id in job_ids:
                await _check(archive, job_id, allowed)
            ids, has_more = list(job_ids), False
            if not ids:
                found = await archive.page(
                    states=tuple(wanted.states),
                    queue=wanted.queue,
                    task=wanted.task,
                    limit=IDS_MAX + 1,
                )
                ids, has_more = [job.id for job in found[:IDS_MAX]], len(found) > IDS_MAX
            return {"jobs": await act(archive, ids), "has_more": has_more}

    return asyncio.run(run())


async def _check(archive: Archive, job_id: str, allowed: frozenset[State]) -> None:
    job = await archive.look(job_id)
    if job is None:
        raise _unknown(job_id)
    if job.state not in allowed:
        raise InvalidTransition(f"job {job.id} is {job.state}, not {' or '.join(sorted(allowed))}")


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(f"no job {job_id[:128]!r} is kept")
