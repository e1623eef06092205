"""The words for a job: its states, its record, and the values that pass between the stages.

Plain data. Nothing here does I/O or knows how a job is run.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from worker_runtime.model.tasks.definition import JobOptions, TaskDefinition

JOB_ID_PATTERN = r"[A-Za-z0-9._:-]{1,128}"
ATTEMPTS_KEPT_MAX = 20


class Priority(enum.IntEnum):
    """Strict: a ready job of a lower number always starts first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @classmethod
    def named(cls, name: str) -> Priority:
        """The priority called `name`: `low`, `normal`, `high` or `critical`. Raises ValueError."""
        try:
            return cls[name.upper()]
        except KeyError:
            allowed = ", ".join(p.name.lower() for p in reversed(cls))
            raise ValueError(f"priority must be one of {allowed}, not {name!r}") from None


class State(enum.StrEnum):
    """Where a job is on its way; docs/job_states.md has the transitions."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


# Module-level names: enum member access costs a descriptor call on 3.11, too dear for the hot path.
SCHEDULED = State.SCHEDULED
QUEUED = State.QUEUED
RUNNING = State.RUNNING
COMPLETED = State.COMPLETED
FAILED = State.FAILED
CANCELLED = State.CANCELLED

TERMINAL_STATES = frozenset({COMPLETED, FAILED, CANCELLED})


class Reason(enum.StrEnum):
    """Why a job failed."""

    ERROR = "error"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"
    UNENCODABLE = "unencodable"


class Failure(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What went wrong in an attempt, as bounded text. Never holds the exception itself, whose
    traceback would keep every frame's objects alive for as long as the history does.

    `reason` is None for a cancelled job, which has words but no fault. `note` names a side
    condition, for example `abandoned_thread` or `sigkill`.
    """

    reason: Reason | None
    error_type: str
    error: str
    traceback: str | None = None
    note: str | None = None

    @property
    def words(self) -> str:
        """The exception's own, or its type where it has none."""
        return self.error or self.error_type


class AttemptRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One ended attempt that was not the last. Times are Unix seconds."""

    number: int
    started_at: float
    ended_at: float
    failure: Failure | None = None


class Counts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Steps and items of a job whose progress is measured in something else."""

    steps_done: int | None = None
    steps_total: int | None = None
    items_done: int | None = None
    items_total: int | None = None
    item: str | None = None


class Progress(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The latest `ctx.report()`. `at` is Unix seconds."""

    done: float
    total: float | None
    step: str | None
    at: float
    counts: Counts | None = None

    @property
    def percentage(self) -> float:
        """0 to 100; 0 while the total is unknown."""
        if not self.total:
            return 0.0
        return min(100.0, max(0.0, 100.0 * self.done / self.total))

    def remaining_s(self, started_at: float | None) -> float | None:
        """Estimated seconds to the end at the average rate so far; None while it cannot be told."""
        if started_at is None or not self.total or self.done <= 0:
            return None
        elapsed_s = max(0.0, self.at - started_at)
        return max(0.0, elapsed_s * (self.total - self.done) / self.done)


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One `ctx.record_metric()`. `at` is Unix seconds."""

    at: float
    name: str
    value: float


class Activity(msgspec.Struct, eq=False):
    """What a job's attempts reported. Made on the first report, so that quiet jobs pay nothing.

    `metrics_dropped` counts the oldest metrics that no longer fit; the cursor of `metrics[0]`.
    """

    progress: Progress | None = None
    metrics: list[Metric] = []
    metrics_dropped: int = 0
    attempts: list[AttemptRecord] = []


class Job(msgspec.Struct, gc=False, eq=False, weakref=False):
    """One enqueued call of a task. Times are Unix seconds.

    Danger: `gc=False` keeps a million queued jobs out of the garbage collector's walks, so a Job
    must never be reachable from something that it refers to (a handle, a slot, the runtime).
    `kwargs` is None where there are none. `order` is the place in line: a lower number was
    accepted earlier; it survives retries and restarts. `must_encode`: somebody will read the result
    as JSON or MessagePack, so one that cannot be encoded fails the job.
    """

    id: str
    task: TaskDefinition
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None
    queue: str
    priority: int
    order: int
    created_at: float
    state: State = QUEUED
    attempt: int = 0
    crashes: int = 0
    due_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    result: Any = None
    failure: Failure | None = None
    options: JobOptions | None = None
    activity: Activity | None = None
    waiters: list[Any] | None = None
    must_encode: bool = False

    @property
    def is_ended(self) -> bool:
        return self.ended_at is not None

    def activity_made(self) -> Activity:
        """The job's activity, made now if there is none."""
        if self.activity is None:
            self.activity = Activity()
        return self.activity


# Msgspec's own assignment keeps the garbage collector informed, which `gc=False` makes needless.
# Without it the interpreter stores a field by its slot, 200 instructions cheaper. Both names have
# to go: while one of them stays, the type would call the other through Python.
Job.__setattr__ = object.__setattr__  # type: ignore[method-assign]
Job.__delattr__ = object.__delattr__  # type: ignore[method-assign]


class OutcomeKind(enum.Enum):
    RETURNED = "returned"
    RAISED = "raised"
    RUN_AGAIN = "run_again"
    STOPPED = "stopped"
    REFUSED = "refused"


class StopReason(enum.StrEnum):
    """Why a running attempt was told to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


class Outcome(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The value an attempt ends in. Only the finisher interprets it.

    value       what the task returned, when `kind` is RETURNED
    failure     what went wrong, when RAISED or STOPPED
    retryable   RAISED: the job's `Retry` admits this exception (a crash: it may be run again)
    again_s     RUN_AGAIN: seconds until the next run; `uses_attempt` whether it counts as a try
    stopped_by  STOPPED: who ended it

    REFUSED means that the job was never accepted, so that there is nothing to record.
    """

    kind: OutcomeKind
    value: Any = None
    failure: Failure | None = None
    retryable: bool = False
    again_s: float = 0.0
    uses_attempt: bool = False
    stopped_by: StopReason | None = None


class Transition(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What the finisher decided: the job's next state and everything recorded with it.

    `encoded` is `value` as MessagePack, where it had to be encoded. `due_at` only for SCHEDULED and
    QUEUED. `attempt` and `crashes` are the job's counters from now
    on: an interrupted or postponed attempt gives its number back.
    """

    state: State
    at: float
    value: Any = None
    failure: Failure | None = None
    due_at: float = 0.0
    attempt: int = 0
    crashes: int = 0
    encoded: bytes | None = None


def with_ended_attempt(
    attempts: Sequence[AttemptRecord], job: Job, transition: Transition
) -> list[AttemptRecord]:
    """`attempts` and the one of `job` that led to `transition`; the newest ones, within a bound."""
    record = AttemptRecord(
        number=job.attempt,
        started_at=job.started_at or transition.at,
        ended_at=transition.at,
        failure=transition.failure,
    )
    return [*attempts, record][-ATTEMPTS_KEPT_MAX:]


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


def no_priority(value: object) -> str:
    """What is wrong with a value that is no Priority, for an error."""
    names = ", ".join(p.name for p in Priority)
    return f"priority must be a Priority, not {repr(value)[:100]}; there are {names}"


PRIORITY_NAMES = tuple(p.name.lower() for p in Priority)
