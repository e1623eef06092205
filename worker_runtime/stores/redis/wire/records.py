"""Jobs as Redis keeps them: a Job to the wire's records and back.

Two manners. `plain` is our own clients': arguments and results are plain data, and what arq's
format has no field for (options, why a job failed) goes into a field `x` that arq's readers pass
over. Without it the record is arq's, to the field, and holds whatever its serializer takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from worker_runtime.errors import (
    ConfigurationError,
    InvalidArguments,
    InvalidJob,
    PayloadTooLarge,
)
from worker_runtime.model.activity import Failure
from worker_runtime.model.bounded import clean, cut, error_text
from worker_runtime.model.job import Job, accepted_arguments, unless_same
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import CANCELLED, COMPLETED, FAILED, Priority, Reason
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.options import NAMED, NO_OPTIONS, OPTIONS, JobOptions
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.stores.redis.leases import Lease
from worker_runtime.stores.redis.wire.layout import (
    Wire,
    WireJob,
    WireResult,
    exception_for,
    execution_failed,
    is_cancelled,
)

# The fields of `JobOptions` that travel: of a caller's options, and the call as it came.
_KEPT = (*(each.field for each in OPTIONS if each.field and each.in_redis == "kept"), "sent")

_ERROR_BYTES_MAX = 8192


class Records:
    """Encodes and decodes jobs with one wire, in one manner."""

    def __init__(self, wire: Wire, *, is_plain: bool, payload_bytes_max: int) -> None:
        self.wire = wire
        self.is_plain = is_plain
        self._payload_bytes_max = payload_bytes_max

    def payload(self, job: Job) -> bytes:
        """The job as it is enqueued. Raises InvalidJob, PayloadTooLarge."""
        extra = _extra(job) if self.is_plain else None
        args, kwargs = accepted_arguments(job)
        enqueued_ms = round(job.created_at * 1000)
        wire_job = WireJob(job.task.name, args, kwargs or {}, None, enqueued_ms, extra)
        try:
            data = self.wire.encode_job(wire_job)
        except Exception as error:  # whatever a serializer raises
            raise InvalidJob(
                f"task {job.task.name}: its arguments cannot be stored: {str(error)[:300]}"
            ) from None
        if len(data) > self._payload_bytes_max:
            raise PayloadTooLarge(
                f"task {job.task.name}: the job takes {len(data)} bytes encoded, "
                f"{self._payload_bytes_max} are allowed"
            )
        return data

    def job(self, job_id: str, found: WireJob, task: TaskDefinition, queue: str, score: int) -> Job:
        """The Job that a payload stands for, not started. Raises InvalidArguments where the
        arguments do not fit the task."""
        args, kwargs = given = found.args, found.kwargs or None
        if self.is_plain and not task.is_parked:
            args, kwargs = task.signature.bind(args, kwargs, wire=not self.wire.is_pickle)
        job = Job(
            job_id,
            task,
            args,
            kwargs,
            queue,
            int(task.priority),
            found.enqueued_ms,
            found.enqueued_ms / 1000,
            due_at=score / 1000,
            options=_options(found.extra) if self.is_plain else None,
        )
        job.accepted = unless_same(given, args, kwargs)
        return job

    def result(
        self, job: Job, transition: Transition, lease: Lease, error: BaseException | None
    ) -> bytes | None:
        """The result of an ended job as arq writes it. `error` is what the task raised, where it
        is known; None: it is made from the failure's words."""
        args, kwargs = accepted_arguments(job)
        wire_job = WireJob(job.task.name, args, kwargs or {}, lease.tries, lease.enqueued_ms)
        value: Any = transition.value
        if transition.state is not COMPLETED:
            value = error if error is not None else _error_of(transition)
        started_ms = round((job.started_at or transition.at) * 1000)
        result = WireResult(
            job=wire_job,
            success=transition.state is COMPLETED,
            value=value,
            started_ms=started_ms,
            finished_ms=round(transition.at * 1000),
            queue_key=lease.queue_key,
            extra=_ended_extra(job, transition) if self.is_plain else None,
        )
        return self.wire.encode_result(result, lease.job_id)

    def ended_job(
        self, job_id: str, data: bytes, find_task: Callable[[str], TaskDefinition], queue: str
    ) -> Job:
        """The ended Job that a kept result stands for. Raises Unreadable."""
        found = self.wire.decode_result(data)
        task = find_task(found.job.function)
        try:
            job = self.job(job_id, found.job, task, queue, found.job.enqueued_ms)
        except InvalidArguments:
            job = Job(
                job_id,
                task,
                found.job.args,
                found.job.kwargs,
                queue,
                int(task.priority),
                found.job.enqueued_ms,
                found.job.enqueued_ms / 1000,
            )
        fill_ended(job, found)
        sent = (found.extra or {}).get("sent")
        if isinstance(sent, str):
            job.options = JobOptions(sent=sent)
        return job


def fill_ended(job: Job, found: WireResult) -> None:
    """Write a result that was found in Redis into the record of its job."""
    tries = found.job.job_try
    job.attempt = 1 if tries is None else tries
    if job.attempt:  # else it was cancelled before it ran, by us: arq counts such a try
        job.started_at = found.started_ms / 1000
    job.ended_at = found.finished_ms / 1000
    if found.success:
        job.state, job.result = COMPLETED, found.value
    else:
        job.state = CANCELLED if is_cancelled(found.value) else FAILED
        job.failure = _failure(found)


def vanished(job: Job, text: str, now: float) -> None:
    """End the record of a job of which Redis keeps no result, at `now` (Unix seconds)."""
    job.state, job.ended_at = FAILED, now
    job.failure = Failure(Reason.ERROR, "ResultNotFound", text)


def _error_of(transition: Transition) -> Any:
    """The exception on the wire for an end of which only the words are known."""
    failure = transition.failure
    if transition.state is CANCELLED or failure is None:
        return asyncio.CancelledError()
    if failure.reason is Reason.TIMEOUT:
        return TimeoutError()
    if failure.reason is Reason.EXPIRED:
        return execution_failed("job expired")
    if failure.reason is Reason.UNENCODABLE:
        return "unable to serialize result"
    return exception_for(failure.error_type, failure.error)


def _extra(job: Job) -> dict[str, Any] | None:
    """What is kept of the job's options. Raises InvalidJob for a retry that names classes."""
    options = job.options
    if options is None:
        return None
    extra: dict[str, Any] = {}
    for name in _KEPT:
        value = getattr(options, name)
        if value is not getattr(NO_OPTIONS, name):
            extra[name] = _plain_retry(value) if isinstance(value, Retry) else value
    return extra or None


def _plain_retry(retry: Retry) -> dict[str, Any]:
    return msgspec.structs.asdict(NAMED["retry"].kind.as_plain(retry))


def _options(extra: dict[str, Any] | None) -> JobOptions | None:
    if not extra:
        return None
    fields = dict(extra)
    retry: Any = fields.pop("retry", msgspec.UNSET)
    try:
        if isinstance(fields.get("label"), str):  # written by any process that has the server
            fields["label"] = clean(fields["label"])
        if isinstance(retry, dict):
            retry = Retry(**retry)
        return JobOptions(**fields, retry=retry)
    except (TypeError, ConfigurationError) as error:
        raise InvalidArguments(f"the job's options cannot be read: {error}") from None


def _ended_extra(job: Job, transition: Transition) -> dict[str, Any] | None:
    failure = transition.failure
    extra: dict[str, Any] = {} if failure is None else msgspec.to_builtins(failure)
    if job.options is not None and job.options.sent is not None:
        extra["sent"] = job.options.sent
    return extra or None


def _failure(found: WireResult) -> Failure:
    if found.extra:
        try:
            return msgspec.convert(found.extra, Failure)
        except msgspec.ValidationError:
            pass  # somebody else's field of that name
    value = found.value
    if is_cancelled(value):
        return Failure(None, "JobCancelled", "cancelled")
    if isinstance(value, TimeoutError):
        return Failure(Reason.TIMEOUT, "TimeoutError", error_text(value, _ERROR_BYTES_MAX))
    if not isinstance(value, BaseException):
        return Failure(Reason.UNENCODABLE, "SerializationError", cut(str(value), _ERROR_BYTES_MAX))
    name = cut(str(getattr(value, "qualified_name", type(value).__name__)), _ERROR_BYTES_MAX)
    return Failure(Reason.ERROR, name.rpartition(".")[2], error_text(value, _ERROR_BYTES_MAX))


def priority_keys(queue_key: str) -> list[tuple[Priority, str]]:
    """The lines of one queue, first to be served first. Jobs of normal priority wait under the
    queue's own key, where arq's clients and workers look."""
    return [
        (p, queue_key if p is Priority.NORMAL else f"{queue_key}:{p.name.lower()}")
        for p in Priority
    ]
