"""What a running task sees of its job. The same in the event loop, a thread and a child process."""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import JobInterrupted
from worker_runtime.model.activity import Counts, Metric, Progress
from worker_runtime.model.bounded import clean
from worker_runtime.model.job import Job

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_COUNTED = ("steps_done", "steps_total", "items_done", "items_total")

METRICS_KEPT_MAX = 10_000
STEP_CHARS_MAX = 500


class Reporter(Protocol):
    """Where a context's reports go: into the job's record, or over a child's pipe."""

    def progress(self, progress: Progress) -> None: ...

    def metric(self, metric: Metric) -> None: ...


class JobContext:
    """Given to a task that asks for it: a parameter annotated `JobContext`, or a first one called
    `ctx`.

    job_id   the idempotency key for the task's own side effects
    attempt  1 for the first run
    state    what the runtime's `lifespan` (in a child: the process setup) yielded
    """

    __slots__ = (
        "_clock",
        "_reporter",
        "_stopped",
        "attempt",
        "job_id",
        "label",
        "queue",
        "state",
        "task",
    )

    def __init__(
        self,
        *,
        job_id: str,
        task: str,
        queue: str,
        attempt: int,
        reporter: Reporter,
        clock: Clock,
        label: str | None = None,
        state: Any = None,
    ) -> None:
        self.job_id = job_id
        self.task = task
        self.queue = queue
        self.attempt = attempt
        self.label = label
        self.state = state
        self._reporter = reporter
        self._clock = clock
        self._stopped = False

    @property
    def cancelled(self) -> bool:
        """True once the job was cancelled, ran past its deadline or the worker is stopping."""
        return self._stopped

    def raise_if_cancelled(self) -> None:
        """Call it now and then in code that nothing interrupts. Raises JobInterrupted."""
        if self._stopped:
            raise JobInterrupted(f"job {self.job_id} was told to stop")

    def report(
        self,
        done: float,
        total: float | None = None,
        *,
        step: str | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Say how far the job is, in any unit. Readable at once; only the latest is kept. `counts`
        are for the backends that show steps and items beside it.

        Raises ValueError for a number that is not finite or a `total` below 0.
        """
        done = _plain("progress", done)
        total = None if total is None else _plain("total", total)
        if total is not None and total < 0:
            raise ValueError(f"total must be 0 or more, not {total!r}")
        text = None if step is None else clean(str(step))[:STEP_CHARS_MAX]
        fit = None if counts is None else _fit_counts(counts)
        self._reporter.progress(Progress(done, total, text, self._clock.wall(), fit))

    def record_metric(self, name: str, value: float) -> None:
        """Append one measurement; the newest 10,000 of a job are kept.

        Raises ValueError for a number that is not finite.
        """
        number = float(_plain(f"metric {name!r:.200}", value))
        self._reporter.metric(Metric(self._clock.wall(), clean(str(name))[:128], number))

    def stop(self) -> None:
        """Tell the task to stop where it next looks. For the runtime; safe from any thread."""
        self._stopped = True


def _plain(what: str, number: float) -> float:
    """A number that any wire and store can carry, also of one that is NumPy's, a Decimal, or larger
    than 64 bits. Raises ValueError where it is not finite, TypeError where it is none."""
    if type(number) is int and _INT_MIN <= number <= _INT_MAX:
        return number
    try:
        plain = float(number)
    except OverflowError:
        plain = math.inf
    if math.isfinite(plain):
        return plain
    raise ValueError(f"{what} must be finite, not {'inf' if type(number) is int else number!r}")


def _fit_counts(counts: Counts) -> Counts:
    """The counts as whole numbers of at most 64 bits (a larger one stands at the bound), their item
    as clean text. Raises ValueError or TypeError where one is no whole number."""
    fit: dict[str, Any] = {}
    if counts.item is not None:
        fit["item"] = clean(str(counts.item))[:STEP_CHARS_MAX]
    for name in _COUNTED:
        value = getattr(counts, name)
        if value is not None:
            whole = int(value)
            if whole != value:
                raise ValueError(f"{name} must be a whole number, not {value!r:.100}")
            fit[name] = min(max(whole, _INT_MIN), _INT_MAX)
    return msgspec.structs.replace(counts, **fit)


class RecordReporter:
    """Writes reports into the job's own record. Assumes the process that keeps the record; single
    attribute and list writes, so a thread may call it."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    def progress(self, progress: Progress) -> None:
        if not self._job.is_ended:
            self._job.activity_made().progress = progress

    def metric(self, metric: Metric) -> None:
        if self._job.is_ended:
            return
        activity = self._job.activity_made()
        activity.metrics.append(metric)
        excess = len(activity.metrics) - METRICS_KEPT_MAX
        if excess > 0:
            del activity.metrics[:excess]
            activity.metrics_dropped += excess
