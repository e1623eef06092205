"""A job's attempts as others see them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from worker_runtime.model.job import AttemptRecord, Job, Reason, utc


class AttemptInfo(msgspec.Struct, frozen=True):
    """One run of a job, as others see it. `ended_at` is None while it runs; `error` and what stands
    with it are None where nothing went wrong."""

    number: int
    started_at: datetime | None
    ended_at: datetime | None
    reason: Reason | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    note: str | None = None


def attempts_of(job: Job) -> tuple[AttemptInfo, ...]:
    """The attempts of `job`, oldest first, a running one included."""
    earlier = [] if job.activity is None else job.activity.attempts
    attempts = [_attempt_info(record) for record in earlier]
    if job.started_at is not None:
        last = AttemptRecord(job.attempt, job.started_at, job.ended_at or 0.0, job.failure)
        attempts.append(_attempt_info(last))
    return tuple(attempts)


def _attempt_info(record: AttemptRecord) -> AttemptInfo:
    failure = record.failure
    return AttemptInfo(
        number=record.number,
        started_at=utc(record.started_at),
        ended_at=utc(record.ended_at or None),
        reason=None if failure is None else failure.reason,
        error_type=None if failure is None else failure.error_type,
        error=None if failure is None else failure.error,
        traceback=None if failure is None else failure.traceback,
        note=None if failure is None else failure.note,
    )
