"""Jobs and queues as others see them: public, encodable snapshots behind every answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from worker_runtime.model.activity import AttemptRecord
from worker_runtime.model.job import Job
from worker_runtime.model.states import PRIORITY_NAMES, Reason, State


class JobInfo(msgspec.Struct, frozen=True, omit_defaults=False):
    """A job as others see it: the public, encodable snapshot behind every answer about a job."""

    id: str
    task: str
    queue: str
    priority: str
    state: State
    attempt: int
    created_at: datetime
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: ProgressInfo | None = None
    reason: Reason | None = None
    error_type: str | None = None
    error: str | None = None
    note: str | None = None
    label: str | None = None


class ProgressInfo(msgspec.Struct, frozen=True):
    """The latest report of a running job, with what follows from it."""

    done: float
    total: float | None
    percentage: float
    step: str | None
    remaining_s: float | None


_from_unix = datetime.fromtimestamp  # a name: looking it up makes an object each time


def utc(at: float | None) -> datetime | None:
    """Unix seconds as an aware UTC datetime."""
    return None if at is None else _from_unix(at, UTC)


_AnyInfo = TypeVar("_AnyInfo", bound=JobInfo)


def describe(job: Job) -> JobInfo:
    """The public snapshot of `job` as it is now."""
    return described_as(JobInfo, job)


def described_as(kind: type[_AnyInfo], job: Job) -> _AnyInfo:
    """The same as a `kind` of JobInfo that has further fields with defaults."""
    failure = job.failure
    if failure is None is job.activity and job.options is None:
        return kind(
            job.id,
            job.task.name,
            job.queue,
            PRIORITY_NAMES[job.priority],
            job.state,
            job.attempt,
            _from_unix(job.created_at, UTC),
            _from_unix(job.due_at, UTC) if job.due_at else None,
            utc(job.started_at),
            utc(job.ended_at),
        )
    progress = job.activity.progress if job.activity is not None else None
    return kind(
        id=job.id,
        task=job.task.name,
        queue=job.queue,
        priority=PRIORITY_NAMES[job.priority],
        state=job.state,
        attempt=job.attempt,
        created_at=_from_unix(job.created_at, UTC),
        due_at=utc(job.due_at or None),
        started_at=utc(job.started_at),
        ended_at=utc(job.ended_at),
        progress=None
        if progress is None
        else ProgressInfo(
            done=progress.done,
            total=progress.total,
            percentage=progress.percentage,
            step=progress.step,
            remaining_s=None if job.is_ended else progress.remaining_s(job.started_at),
        ),
        reason=None if failure is None else failure.reason,
        error_type=None if failure is None else failure.error_type,
        error=None if failure is None else failure.error,
        note=None if failure is None else failure.note,
        label=None if job.options is None else job.options.label,
    )


class JobPage(msgspec.Struct, frozen=True):
    """Jobs, newest first. Pass `cursor` to get those after them; None: there are no more."""

    jobs: list[JobInfo]
    cursor: str | None


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


class JobDetail(JobInfo, frozen=True):
    """A job with its attempts, oldest first: the newest 20 that were tried again, and the last."""

    attempts: tuple[AttemptInfo, ...] = ()


def detail_of(job: Job) -> JobDetail:
    """The public snapshot of `job` with its attempts."""
    return JobDetail(**msgspec.structs.asdict(describe(job)), attempts=attempts_of(job))


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


class QueueInfo(msgspec.Struct, frozen=True):
    """A queue as it is now. `waiting` counts ready and scheduled jobs; `running` attempts, those
    that were given up and keep their place included."""

    name: str
    waiting: int
    running: int
    concurrency: int
    capacity: int
    paused: bool
