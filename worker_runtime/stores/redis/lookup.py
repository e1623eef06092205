"""Jobs in Redis seen and acted on from outside: find, list, cancel, retry, see the end."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import StoreUnavailable
from worker_runtime.model.activity import Failure, Progress
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import CANCELLED, FAILED, QUEUED, RUNNING, SCHEDULED, Reason
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.stores.redis.leases import Lease
from worker_runtime.stores.redis.script import REDIS_ERRORS, Script
from worker_runtime.stores.redis.wire.layout import (
    DEAD_INDEX,
    DEAD_PREFIX,
    DEAD_TTL_S,
    EXPIRES_EXTRA_MS,
    IN_PROGRESS_PREFIX,
    JOB_PREFIX,
    PROGRESS_PREFIX,
    RESULT_PREFIX,
    RETRY_PREFIX,
    Unreadable,
)
from worker_runtime.stores.redis.wire.records import Records, fill_ended, vanished

UNKNOWN_FUNCTION = "<unknown>"
_LISTED_MAX = 10_000
_PER_CALL = 200
_PROGRESS_TTL_MS = 3_600_000

Lines = Sequence[tuple[str, int, str]]  # queue, priority, key


class Lookup:
    """Reads and acts on jobs that other processes may hold. `lines` are the queues it knows."""

    def __init__(
        self,
        client: Any,
        records: Records,
        lines: Lines,
        find_task: Callable[[str], TaskDefinition],
        clock: Clock,
    ) -> None:
        self._client = client
        self._records = records
        self._cancel = Script("cancel")
        self._retry = Script("retry")
        self._lines = lines
        self._find_task = find_task
        self._wall = clock.wall

    async def find(self, job_id: str) -> Job | None:
        """Raises StoreUnavailable."""
        try:
            return (await self._find_many([job_id]))[0]
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None

    async def _find_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        pipe = self._client.pipeline(transaction=False)
        width = 6 + len(self._lines)
        for job_id in job_ids:
            pipe.get(RESULT_PREFIX + job_id)
            pipe.get(JOB_PREFIX + job_id)
            pipe.exists(IN_PROGRESS_PREFIX + job_id)
            pipe.get(RETRY_PREFIX + job_id)
            pipe.get(PROGRESS_PREFIX + job_id)
            pipe.hgetall(DEAD_PREFIX + job_id)
            for _, _, key in self._lines:
                pipe.zscore(key, job_id)
        found = await pipe.execute()
        return [
            self._job(job_id, found[i * width : (i + 1) * width])
            for i, job_id in enumerate(job_ids)
        ]

    def _job(self, job_id: str, found: list[Any]) -> Job | None:
        result, payload, is_running, tries, progress, dead = found[:6]
        line = next((i for i, score in enumerate(found[6:]) if score is not None), None)
        queue, priority, _ = self._lines[line or 0] if self._lines else ("default", 2, "")
        if result is not None:
            return self._ended(job_id, result, queue)
        if payload is None:
            return self._dead(job_id, dead, queue) if dead else None
        job = self._waiting(job_id, payload, queue, found[6 + line] if line is not None else 0)
        job.priority = priority
        job.attempt = int(tries or 0)
        if progress is not None:
            job.activity_made().progress = msgspec.msgpack.decode(progress, type=Progress)
        if is_running:
            job.state = RUNNING
        elif job.due_at > self._wall():
            job.state = SCHEDULED
        return job

    def _waiting(self, job_id: str, payload: bytes, queue: str, score: float) -> Job:
        try:
            found = self._records.wire.decode_job(payload)
            task = self._find_task(found.function)
            job = self._records.job(job_id, found, task, queue, int(score))
        except Exception:  # unreadable, or its arguments do not fit: it can be seen all the same
            job = _bare_job(job_id, self._find_task(UNKNOWN_FUNCTION), queue, score / 1000)
        job.order = _order(job.created_at, job_id)
        job.state = QUEUED
        return job

    def _ended(self, job_id: str, result: bytes, queue: str) -> Job:
        try:
            job = self._records.ended_job(job_id, result, self._find_task, queue)
        except Unreadable as error:
            job = _bare_job(job_id, self._find_task(UNKNOWN_FUNCTION), queue, self._wall())
            vanished(job, f"its result cannot be read: {error}", self._wall())
        job.order = _order(job.created_at, job_id)
        return job

    def _dead(self, job_id: str, dead: dict[bytes, bytes], queue: str) -> Job:
        at = float(dead.get(b"at", b"0"))
        job = _bare_job(job_id, self._find_task(UNKNOWN_FUNCTION), queue, at)
        job.state, job.ended_at = FAILED, at
        job.failure = Failure(
            Reason.ERROR, "DeadLetter", dead.get(b"reason", b"").decode("utf-8", "replace")
        )
        return job

    async def page(
        self, matches: Callable[[Job], bool], *, limit: int, below: int | None
    ) -> tuple[list[Job], int | None]:
        """Up to `limit` jobs that match, newest first, and the cursor of the rest. Looks at 10,000
        jobs at most: for people, not for a hot path. Raises StoreUnavailable."""
        try:
            job_ids = await self._listed()
            found: list[Job | None] = []
            for start in range(0, len(job_ids), _PER_CALL):
                found += await self._find_many(job_ids[start : start + _PER_CALL])
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None
        chosen = (
            job
            for job in found
            if job is not None and (below is None or job.order < below) and matches(job)
        )
        jobs = heapq.nlargest(limit + 1, chosen, key=lambda job: job.order)
        more = len(jobs) > limit
        jobs = jobs[:limit]
        return jobs, jobs[-1].order if more else None

    async def _listed(self) -> list[str]:
        job_ids: dict[str, None] = {}
        for _, _, key in self._lines:
            for raw in await self._client.zrevrange(key, 0, _LISTED_MAX - 1):
                job_ids[raw.decode()] = None
        for prefix in (RESULT_PREFIX, DEAD_PREFIX):
            async for raw in self._client.scan_iter(match=prefix + "*", count=1000):
                job_ids[raw.decode()[len(prefix) :]] = None
                if len(job_ids) >= _LISTED_MAX:
                    break
        return list(job_ids)[:_LISTED_MAX]

    async def cancel(self, job: Job, message: str, ttl_ms: int) -> bool:
        """As `Runtime.cancel`, for a job that is not in this process. Raises StoreUnavailable."""
        now = self._wall()
        failure = Failure(None, "JobCancelled", message or "cancelled before it started")
        transition = Transition(CANCELLED, now, None, failure, 0.0, job.attempt, job.crashes)
        keys = [key for _, _, key in self._lines]
        lease = Lease(
            job.id, keys[0] if keys else "", "", job.attempt, 0, round(job.created_at * 1000)
        )
        result = self._records.result(job, transition, lease, None)
        try:
            answer = await self._cancel.call(
                self._client, job.id, round(now * 1000), result or b"", ttl_ms, *keys
            )
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None
        return answer in (b"ended", b"told")

    async def revive(self, job: Job, key: str) -> bool:
        """Queue an ended job again; False where it waits or runs. Raises StoreUnavailable."""
        now_ms = round(self._wall() * 1000)
        try:
            payload = await self._client.hget(DEAD_PREFIX + job.id, "payload")
            if payload is None:
                payload = self._records.payload(job)
            answer = await self._retry.call(
                self._client, job.id, key, now_ms, EXPIRES_EXTRA_MS, payload
            )
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None
        return bool(answer)

    async def bury(self, job_id: str, queue: str, payload: bytes, reason: str) -> None:
        """Bury a payload that cannot be read, for a week, with the reason."""
        now = self._wall()
        pipe = self._client.pipeline(transaction=True)
        fields = {"queue": queue, "reason": reason, "at": repr(now), "payload": payload}
        pipe.hset(DEAD_PREFIX + job_id, mapping=fields)
        pipe.expire(DEAD_PREFIX + job_id, DEAD_TTL_S)
        pipe.zadd(DEAD_INDEX, {job_id: now})
        pipe.zremrangebyscore(DEAD_INDEX, "-inf", now - DEAD_TTL_S)
        pipe.expire(DEAD_INDEX, DEAD_TTL_S)
        await pipe.execute()

    async def show_progress(self, jobs: Iterable[Job]) -> None:
        """Let other processes see how far these running jobs are."""
        pipe = self._client.pipeline(transaction=False)
        for job in jobs:
            progress = None if job.activity is None else job.activity.progress
            if progress is not None:
                encoded = msgspec.msgpack.encode(progress)
                pipe.set(PROGRESS_PREFIX + job.id, encoded, px=_PROGRESS_TTL_MS)
        await pipe.execute()

    async def results(self, job_ids: Sequence[str]) -> list[tuple[bytes | None, bool]]:
        """Of each job the result that is kept, and whether the job is there to be run. A job may
        end between the two questions, and seem to have neither. Raises redis errors."""
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.get(RESULT_PREFIX + job_id)
            pipe.exists(JOB_PREFIX + job_id)
        found = await pipe.execute()
        return [(result, bool(kept)) for result, kept in zip(found[::2], found[1::2], strict=True)]

    def end(self, job: Job, result: bytes | None) -> None:
        """End the record of a job by its result; None: there is none any more."""
        if result is None:
            vanished(job, "it has ended, and its result was not kept", self._wall())
            return
        try:
            fill_ended(job, self._records.wire.decode_result(result))
        except Unreadable as error:
            vanished(job, f"its result cannot be read: {error}", self._wall())


def _bare_job(job_id: str, task: TaskDefinition, queue: str, at: float) -> Job:
    return Job(job_id, task, (), None, queue, int(task.priority), 0, at)


def _order(created_at: float, job_id: str) -> int:
    """A place in line that is the same in every process: by time, then by id."""
    return round(created_at * 1000) * 1000 + zlib.crc32(job_id.encode()) % 1000
