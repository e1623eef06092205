"""A job: one enqueued call of a task, and what holds for it.

Plain data. Nothing here does I/O or knows how a job is run.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from worker_runtime.model.activity import Activity, Failure
from worker_runtime.model.states import QUEUED, State
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.tasks.policy import NO_RETRY, Retry
from worker_runtime.model.values.copying import Arguments, private_arguments


class Job(msgspec.Struct, gc=False, eq=False, weakref=False):
    """One enqueued call of a task. Times are Unix seconds.

    Danger: `gc=False` keeps a million queued jobs out of the garbage collector's walks, so a Job
    must never be reachable from something that it refers to (a handle, a slot, the runtime).
    `args` and `kwargs` (None where there are none) are the call as it was accepted: nobody changes
    what is in them, and a task is given `call_arguments`. `accepted` is the same as a store had it,
    where today's annotations have made something else of that. `result` too is nobody's to change.
    `order` is the place in line: a lower number was
    accepted earlier; it survives retries and restarts. `must_encode`: somebody will read the result
    as JSON or MessagePack, so one that cannot be encoded fails the job. `has_begun`: so
    that its expiry counts no more; known of jobs that have one.
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
    accepted: Arguments | None = None
    has_begun: bool = False

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


def call_arguments(job: Job) -> Arguments:
    """The arguments for one attempt of `job`, which may do with them what it likes."""
    if job.task.takes_mutable:
        return private_arguments(job.args, job.kwargs)
    return job.args, job.kwargs


def accepted_arguments(job: Job) -> Arguments:
    """The arguments to keep of `job`: as accepted, whatever has become of its task since."""
    return (job.args, job.kwargs) if job.accepted is None else job.accepted


def unless_same(
    accepted: Arguments, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> Arguments | None:
    """What `Job.accepted` is for a call that a store had as `accepted`."""
    if accepted[0] is args and accepted[1] is kwargs:
        return None
    try:
        return None if accepted == (args, kwargs) else accepted
    except Exception:  # an argument's own comparison
        return accepted


def timeout_of(job: Job) -> float | None:
    """The longest that one attempt of `job` may run, in seconds."""
    options = job.options
    if options is not None and options.timeout_s is not UNSET:
        return options.timeout_s
    return job.task.timeout_s


def retry_of(job: Job) -> Retry:
    """When and how often a failed attempt of `job` is tried again."""
    options = job.options
    if options is not None and options.retry is not UNSET:
        return options.retry or NO_RETRY
    return job.task.retry


def ttl_of(job: Job) -> float | None:
    """How long `job` is kept once it has ended, in seconds; None: as long as the history says."""
    options = job.options
    if options is not None and options.result_ttl_s is not UNSET:
        return options.result_ttl_s
    return job.task.result_ttl_s
