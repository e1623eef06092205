"""arq's names for those who uninstall it: the same client, the same words, on the same wire.

    from worker_runtime.arq import RedisSettings, Retry, create_pool, cron, func

It imports nothing of arq. What differs: results and jobs are read with an unpickler that admits
plain data only (`unsafe_pickle=True` reads the rest), and a worker of ours that waits is woken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any
from uuid import uuid4

from worker_runtime.arq.declarations import (
    CronJob,
    Function,
    RedisSettings,
    Retry,
    Seconds,
    cron,
    func,
    milliseconds,
)
from worker_runtime.arq.errors import (
    DeserializationError,
    JobExecutionFailed,
    ResultNotFound,
    SerializationError,
    made,
    recognised,
)
from worker_runtime.clock.source import Clock
from worker_runtime.stores.redis.location import (
    RedisLocation,
    async_redis,
    close_client,
)
from worker_runtime.stores.redis.script import REDIS_ERRORS, Script
from worker_runtime.stores.redis.wire.layout import (
    ABORT_KEY,
    DEFAULT_QUEUE_KEY,
    EXPIRES_EXTRA_MS,
    IN_PROGRESS_PREFIX,
    JOB_PREFIX,
    RESULT_PREFIX,
    WAKE_CHANNEL,
    Deserializer,
    Serializer,
    Unreadable,
    Wire,
    WireJob,
)

__all__ = [
    "ArqRedis",
    "CronJob",
    "DeserializationError",
    "Function",
    "Job",
    "JobDef",
    "JobExecutionFailed",
    "JobResult",
    "JobStatus",
    "RedisSettings",
    "ResultNotFound",
    "Retry",
    "SerializationError",
    "create_pool",
    "cron",
    "func",
]


logger = logging.getLogger("arq.connections")


class JobStatus(StrEnum):
    """Where a job is. The words are arq's."""

    deferred = "deferred"
    queued = "queued"
    in_progress = "in_progress"
    complete = "complete"
    not_found = "not_found"


@dataclass
class JobDef:
    """A job as it was enqueued. `score` is when it is due, Unix ms."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    job_try: int | None
    enqueue_time: datetime
    score: int | None
    job_id: str | None


@dataclass
class JobResult(JobDef):
    """A job and how it ended. `result` is the return value or the exception."""

    success: bool
    result: Any
    start_time: datetime
    finish_time: datetime
    queue_name: str | None


class ArqRedis(async_redis.Redis):
    """redis-py's asyncio client with `enqueue_job`. Make it with `create_pool`."""

    wire = Wire()
    clock = Clock()
    job_serializer: Serializer | None = None
    job_deserializer: Deserializer | None = None
    default_queue_name = DEFAULT_QUEUE_KEY
    expires_extra_ms = EXPIRES_EXTRA_MS
    _enqueue_script = Script("enqueue")

    async def enqueue_job(
        self,
        function: str,
        *args: Any,
        _job_id: str | None = None,
        _queue_name: str | None = None,
        _defer_until: datetime | None = None,
        _defer_by: Seconds | None = None,
        _expires: Seconds | None = None,
        _job_try: int | None = None,
        **kwargs: Any,
    ) -> Job | None:
        """Enqueue a job; None where a job or a kept result has that id. Raises SerializationError,
        RuntimeError for both `_defer_until` and `_defer_by`, and redis errors."""
        if _defer_until and _defer_by:
            raise RuntimeError("use either 'defer_until' or 'defer_by' or neither, not both")
        queue = _queue_name or self.default_queue_name
        job_id = _job_id or uuid4().hex
        now_ms = round(self.clock.wall() * 1000)
        if _defer_until is not None:
            score = round(_defer_until.timestamp() * 1000)
        else:
            score = now_ms + (milliseconds(_defer_by) or 0)
        expires_ms = milliseconds(_expires) or score - now_ms + self.expires_extra_ms
        try:
            payload = self.wire.encode_job(WireJob(function, args, kwargs, _job_try, now_ms))
        except Exception as error:  # whatever a serializer raises
            text = f'unable to serialize job "{function}"'
            raise made(SerializationError, text) from error
        [answer] = await self._enqueue_script.call(
            self, job_id, queue, score, expires_ms, payload, 0
        )
        return Job(job_id, self, queue) if answer == 1 else None

    async def all_job_results(self) -> list[JobResult]:
        """Every kept result, oldest job first."""
        found = []
        async for key in self.scan_iter(match=RESULT_PREFIX + "*", count=1000):
            job_id = key.decode()[len(RESULT_PREFIX) :]
            result = await Job(job_id, self).result_info()
            if result is not None:
                found.append(result)
        return sorted(found, key=attrgetter("enqueue_time"))

    async def queued_jobs(self, *, queue_name: str | None = None) -> list[JobDef]:
        """The jobs in a queue, those in progress included, in the order they become due."""
        found = []
        queue = queue_name or self.default_queue_name
        waiting: Any = await self.zrange(queue, 0, -1, withscores=True)
        for raw, score in waiting:
            data: Any = await self.get(JOB_PREFIX + raw.decode())
            if data is not None:
                found.append(_job_def(_read(self.wire.decode_job, data), raw.decode(), int(score)))
        return found


class Job:
    """A job by its id, wherever it is."""

    __slots__ = ("_clock", "_queue_name", "_redis", "job_id")

    def __init__(self, job_id: str, redis: ArqRedis, _queue_name: str = DEFAULT_QUEUE_KEY) -> None:
        self.job_id = job_id
        self._redis = redis
        self._clock: Clock = getattr(redis, "clock", ArqRedis.clock)  # much works on any client
        self._queue_name = _queue_name

    def __repr__(self) -> str:
        return f"<arq job {self.job_id}>"

    async def result(self, timeout: float | None = None, *, poll_delay: float = 0.5) -> Any:
        """What the job returned, waited for at most `timeout` seconds; raises what it raised.

        Raises ResultNotFound where it is in no queue and has no result, TimeoutError, and
        SerializationError where its result could not be kept. The first looks follow quickly.
        """
        monotonic = self._clock.monotonic
        deadline = None if timeout is None else monotonic() + timeout
        wait_s = min(0.005, poll_delay)
        while True:
            pipe = self._redis.pipeline(transaction=True)
            pipe.get(RESULT_PREFIX + self.job_id)
            pipe.zscore(self._queue_name, self.job_id)
            data, score = await pipe.execute()
            if data is not None:
                return _value(_result(self._redis.wire, data, self.job_id))
            if score is None:
                raise made(
                    ResultNotFound,
                    "Not waiting for job result because the job is not in queue. "
                    "Is the worker function configured to keep result?",
                )
            if deadline is not None and monotonic() > deadline:
                raise TimeoutError(f"job {self.job_id} has not ended within {timeout} s")
            await asyncio.sleep(wait_s)
            wait_s = min(poll_delay, wait_s * 1.5)

    async def info(self) -> JobDef | None:
        """What is known of the job, with its result if there is one."""
        info: JobDef | None = await self.result_info()
        if info is None:
            data: Any = await self._redis.get(JOB_PREFIX + self.job_id)
            if data is not None:
                info = _job_def(_read(self._redis.wire.decode_job, data), self.job_id, None)
        if info is not None:
            score = await self._redis.zscore(self._queue_name, self.job_id)
            info.score = None if score is None else int(score)
        return info

    async def result_info(self) -> JobResult | None:
        """How the job ended; None where no result is kept. Never raises what the job raised."""
        data: Any = await self._redis.get(RESULT_PREFIX + self.job_id)
        return None if data is None else _result(self._redis.wire, data, self.job_id)

    async def status(self) -> JobStatus:
        """Where the job is now, by one look at Redis. Raises redis errors."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.exists(RESULT_PREFIX + self.job_id)
        pipe.exists(IN_PROGRESS_PREFIX + self.job_id)
        pipe.zscore(self._queue_name, self.job_id)
        is_complete, is_in_progress, score = await pipe.execute()
        if is_complete:
            return JobStatus.complete
        if is_in_progress:
            return JobStatus.in_progress
        if score:
            now_ms = self._clock.wall() * 1000
            return JobStatus.deferred if score > now_ms else JobStatus.queued
        return JobStatus.not_found

    async def abort(self, *, timeout: float | None = None, poll_delay: float = 0.5) -> bool:
        """Ask for the job's abort and wait for its end: True where it was aborted. The worker must
        `allow_abort_jobs`. Raises TimeoutError."""
        info = await self.info()
        now_ms = round(self._clock.wall() * 1000)
        pipe = self._redis.pipeline(transaction=True)
        if info is not None and info.score and info.score > now_ms:
            pipe.zadd(self._queue_name, {self.job_id: 1}, xx=True)
        pipe.zadd(ABORT_KEY, {self.job_id: now_ms})
        pipe.publish(WAKE_CHANNEL + self._queue_name, "abort")
        await pipe.execute()
        try:
            await self.result(timeout=timeout, poll_delay=poll_delay)
        except asyncio.CancelledError:
            return True
        except ResultNotFound:
            return False
        except TimeoutError:
            raise
        except Exception:
            return False
        return False


async def create_pool(
    settings_: object | None = None,
    *,
    job_serializer: Serializer | None = None,
    job_deserializer: Deserializer | None = None,
    default_queue_name: str = DEFAULT_QUEUE_KEY,
    expires_extra_ms: int = EXPIRES_EXTRA_MS,
    unsafe_pickle: bool = False,
) -> ArqRedis:
    """A connected client. `settings_`: a RedisSettings, ours or arq's. Raises redis errors after
    `conn_retries` vain attempts."""
    location = RedisLocation() if settings_ is None else RedisLocation.from_attributes(settings_)
    pool: ArqRedis = location.connect(ArqRedis)
    pool.wire = Wire(job_serializer, job_deserializer, unsafe_pickle=unsafe_pickle)
    pool.job_serializer, pool.job_deserializer = job_serializer, job_deserializer
    pool.default_queue_name = default_queue_name
    pool.expires_extra_ms = expires_extra_ms
    for left in range(location.conn_retries, -1, -1):
        try:
            await pool.ping()
            break
        except REDIS_ERRORS as error:
            if not left:
                await close_client(pool)
                raise
            logger.warning(
                "redis connection error %s %s %s, %d retries remaining...",
                location.shown,
                type(error).__name__,
                error,
                left,
            )
            await asyncio.sleep(location.conn_retry_delay)
    return pool


def _result(wire: Wire, data: bytes, job_id: str) -> JobResult:
    found = _read(wire.decode_result, data)
    return JobResult(
        function=found.job.function,
        args=found.job.args,
        kwargs=found.job.kwargs,
        job_try=found.job.job_try,
        enqueue_time=_datetime(found.job.enqueued_ms),
        score=None,
        job_id=job_id,
        success=found.success,
        result=recognised(found.value),
        start_time=_datetime(found.started_ms),
        finish_time=_datetime(found.finished_ms),
        queue_name=found.queue_key,
    )


def _value(found: JobResult) -> Any:
    if found.success:
        return found.result
    if isinstance(found.result, Exception | asyncio.CancelledError):
        raise found.result
    raise made(SerializationError, found.result)


def _job_def(found: WireJob, job_id: str, score: int | None) -> JobDef:
    return JobDef(
        found.function,
        found.args,
        found.kwargs,
        found.job_try,
        _datetime(found.enqueued_ms),
        score,
        job_id,
    )


def _read(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except Unreadable as error:
        raise made(DeserializationError, str(error)) from error


def _datetime(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
