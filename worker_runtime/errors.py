"""Every exception this package raises on purpose.

WorkerRuntimeError
├── ConfigurationError        a setting, task or store that cannot work; raised before any job runs
├── Refused                   the job was not accepted and will never run
│   ├── InvalidJob            id, option or payload outside its limits
│   ├── InvalidArguments      the arguments do not fit the task's annotations
│   ├── UnknownTask
│   ├── UnknownQueue
│   ├── JobConflict           the id belongs to a job with another payload
│   ├── PayloadTooLarge
│   └── Unavailable           try again after `retry_after_s`
│       ├── QueueFull
│       ├── Overloaded        overload control said no
│       ├── StoreUnavailable  the store cannot keep the job now (for example no space)
│       └── ShuttingDown
├── UnknownJob
├── InvalidTransition         the job is not in a state that allows this
├── TransactionExpired        the transaction was open for too long and was rolled back
└── JobNotCompleted           what `JobHandle.result()` raises
    ├── JobFailed
    └── JobCancelled
JobInterrupted                raised inside a task by `ctx.raise_if_cancelled()`
RunAgain                      raised or returned by a task to be run again later
ExecutorFailure               an executor could not run an attempt to its end
├── ChildCrashed              the child process that ran it died
├── RemoteFailure             the task raised in a child process
└── ExecutorFull              no thread or child is left to run it
"""

from __future__ import annotations

__all__ = [
    "ChildCrashed",
    "ConfigurationError",
    "ExecutorFailure",
    "ExecutorFull",
    "InvalidArguments",
    "InvalidJob",
    "InvalidTransition",
    "JobCancelled",
    "JobConflict",
    "JobFailed",
    "JobInterrupted",
    "JobNotCompleted",
    "Overloaded",
    "PayloadTooLarge",
    "QueueFull",
    "Refused",
    "RemoteFailure",
    "RunAgain",
    "ShuttingDown",
    "StoreUnavailable",
    "TransactionExpired",
    "Unavailable",
    "UnknownJob",
    "UnknownQueue",
    "UnknownTask",
    "WorkerRuntimeError",
]


class WorkerRuntimeError(Exception):
    """The root of this package's errors."""


class ConfigurationError(WorkerRuntimeError):
    """Something that was configured cannot work; the message names it and what is allowed."""


class Refused(WorkerRuntimeError):
    """The job was not accepted. Nothing refused ever runs."""


class InvalidJob(Refused):
    """An id, option or payload is outside its limits."""


class InvalidArguments(Refused):
    """The arguments do not fit the task's annotations."""


class UnknownTask(Refused):
    """No task is registered under that name."""


class UnknownQueue(Refused):
    """No queue has that name."""


class JobConflict(Refused):
    """The id is in use by a job with another payload."""


class PayloadTooLarge(Refused):
    """The encoded arguments exceed `payload_bytes_max`."""


class Unavailable(Refused):
    """Not now; the same call may succeed after `retry_after_s` seconds.

    `position` is the place in line that the job would have had, `predicted_wait_s` how long it
    would have waited there; None where that is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        position: int | None = None,
        predicted_wait_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.position = position
        self.predicted_wait_s = predicted_wait_s


class QueueFull(Unavailable):
    """The queue holds as many waiting jobs as its capacity allows."""


class Overloaded(Unavailable):
    """Overload control refused: CPU, memory or the predicted wait is above its limit."""


class StoreUnavailable(Unavailable):
    """The store cannot keep another job at the moment."""


class ShuttingDown(Unavailable):
    """The runtime is draining and accepts nothing new."""


class UnknownJob(WorkerRuntimeError):
    """No job with that id is kept."""


class InvalidTransition(WorkerRuntimeError):
    """The job's state does not allow what was asked."""


class TransactionExpired(WorkerRuntimeError):
    """The transaction has ended: it was open for longer than its bound and was rolled back, or its
    block is over."""


class JobNotCompleted(WorkerRuntimeError):
    """A job ended without a result."""


class JobFailed(JobNotCompleted):
    """The job ended as failed.

    `reason` is one of the words in `worker_runtime.model.states.Reason`; `error_type` and `error`
    are the exception's class name and text as recorded, `traceback` the formatted text where there
    is one.
    """

    def __init__(
        self,
        job_id: str,
        *,
        reason: str,
        error_type: str,
        error: str,
        traceback: str | None = None,
    ) -> None:
        super().__init__(f"job {job_id} failed ({reason}): {error_type}: {error}")
        self.job_id = job_id
        self.reason = reason
        self.error_type = error_type
        self.error = error
        self.traceback = traceback


class JobCancelled(JobNotCompleted):
    """The job was cancelled before it completed."""

    def __init__(self, job_id: str, message: str = "") -> None:
        super().__init__(f"job {job_id} was cancelled{': ' if message else ''}{message}")
        self.job_id = job_id


class JobInterrupted(BaseException):
    """Raised inside a running task where it next looks, after a cancel, a deadline or a shutdown.

    A BaseException, like `asyncio.CancelledError`, so that `except Exception` in a task does not
    swallow the order to stop.
    """


class RunAgain(Exception):
    """Raise or return this from a task to have the same job run again after `delay_s` seconds.

    `uses_attempt=False` (the default) leaves the retry budget alone: the task asks to wait, it did
    not fail. With True the run counts as a try, and after the last of `Retry.max_attempts` (one
    where the task has no `Retry`) the job has failed.
    """

    def __init__(self, delay_s: float = 0.0, *, uses_attempt: bool = False) -> None:
        if not 0.0 <= delay_s <= 10 * 365 * 86_400:
            raise ValueError(f"delay_s must be between 0 and ten years in seconds, not {delay_s!r}")
        super().__init__(f"run again in {delay_s} s")
        self.delay_s = float(delay_s)
        self.uses_attempt = uses_attempt


class ExecutorFailure(WorkerRuntimeError):
    """An executor could not bring an attempt to a normal end."""


class ChildCrashed(ExecutorFailure):
    """The child process that ran the attempt died.

    The text says how and ends with the last lines of its stderr; `note` is one word for it, for
    example `sigkill`, `exit_0` or `memory_limit`. `retryable` is False where another run would die
    the same way.
    """

    def __init__(self, message: str, *, note: str, retryable: bool = True) -> None:
        super().__init__(message)
        self.note = note
        self.retryable = retryable


class ExecutorFull(ExecutorFailure):
    """Every thread or child is held by an abandoned attempt and no further one may be started."""


class RemoteFailure(ExecutorFailure):
    """A task raised in a child process.

    Carries text only: exceptions are not sent as objects, because many do not unpickle.
    `lineage` holds the qualified names of the exception's classes, most derived first, so that
    `Retry(only_for=...)` decides the same way as for a local exception; `leaves` the lineages of
    the exceptions in a group, each once.
    """

    def __init__(
        self,
        error_type: str,
        error: str,
        *,
        lineage: tuple[str, ...],
        traceback: str,
        leaves: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        super().__init__(f"{error_type}: {error}")
        self.error_type = error_type
        self.error = error
        self.lineage = lineage
        self.leaves = leaves
        self.traceback = traceback
