"""The list of a worker's operations: filters, pages and counts, in memory and in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from aiohttp import web

from worker_runtime.contracts.domains import type_of
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.runtime import Runtime
from worker_runtime.web.operations.documents import (
    ACTIVE_STATUSES,
    KNOWN_TYPES,
    STATUSES,
    OperationView,
)
from worker_runtime.web.wire.query import flag, whole, word

PAGE_LIMIT_MAX = 1000
# Operations of earlier lives that a list takes from the store, for each domain.
STORED_MAX = 1000
_READ_AT_A_TIME = 100


class OperationList:
    """Answers `GET /api/v1/operations`."""

    def __init__(
        self, runtime: Runtime, domains: Mapping[str, TaskDefinition], view: OperationView
    ) -> None:
        self._runtime = runtime
        self._domains = domains
        self._view = view
        self._types = sorted(KNOWN_TYPES | {type_of(domain) for domain in domains})

    async def answer(self, request: web.Request) -> Any:
        """The totals are those of the filters, `active_count` is that of all operations. Raises
        Rejection (422) for a filter or page out of range."""
        status = word(request, "status", STATUSES)
        kind = word(request, "operation_type", self._types)
        limit = whole(request, "limit", default=100, low=1, high=PAGE_LIMIT_MAX)
        offset = whole(request, "offset", default=0, low=0, high=1 << 31)
        active_only = flag(request, "active_only")
        found: list[Job] = []
        active = 0
        for job in await self._newest_first():
            shown = self._view.status(job)
            is_active = shown in ACTIVE_STATUSES
            active += is_active
            if (
                (status is None or shown == status)
                and (kind is None or type_of(job.task.domain or "") == kind)
                and (is_active or not active_only)
            ):
                found.append(job)
        data = {
            "operations": [
                self._view.summary(job) for job in islice(found, offset, offset + limit)
            ],
            "total": len(found),
            "limit": limit,
            "offset": offset,
        }
        return {"success": True, "data": data, "total_count": len(found), "active_count": active}

    async def _newest_first(self) -> list[Job]:
        if not self._runtime.doorway.keeps_jobs:
            return list(self._in_memory())
        found = [*(await self._stored()), *self._in_memory()]
        # One that is in both counts as it is in memory, which the file may be a commit behind.
        by_id = {job.id: job for job in found}
        return sorted(by_id.values(), key=lambda job: job.order, reverse=True)

    def _in_memory(self) -> Iterator[Job]:
        for job in self._runtime.doorway.jobs_here(newest_first=True):
            if job.task.domain in self._domains:
                yield job

    async def _stored(self) -> list[Job]:
        """Ended operations of the store, in no order."""
        found: list[Job] = []
        for task in self._domains.values():
            below = None
            for _ in range(STORED_MAX // _READ_AT_A_TIME):
                rows = await self._runtime.doorway.ended_jobs(
                    task.name, limit=_READ_AT_A_TIME, below=below
                )
                for job in rows:  # copies of our own; no list shows a result
                    job.result = None
                found.extend(rows)
                if len(rows) < _READ_AT_A_TIME:
                    break
                below = rows[-1].order
        return found
