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
        if not math.isfinite(done) or (total is not None and not math.isfinite(total)):
            raise ValueError(f"progress must be finite, not {done!r} of {total!r}")
        if total is not None and total < 0:
            raise ValueError(f"total must be 0 or more, not {total!r}")
        text = None if step is None else clean(str(step))[:STEP_CHARS_MAX]
        if counts is not None and counts.item is not None:
            item = clean(str(counts.item))[:STEP_CHARS_MAX]
            counts = msgspec.structs.replace(counts, item=item)
        known_total = None if total is None else _plain(total)
        at = self._clock.wall()
        self._reporter.progress(Progress(_plain(done), known_total, text, at, counts))

    def record_metric(self, name: str, value: float) -> None:
        """Append one measurement; the newest 10,000 of a job are kept.

        Raises ValueError for a number that is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} must be finite, not {value!r}")
        self._reporter.metric(Metric(self._clock.wall(), clean(str(name))[:128], float(value)))

    def stop(self) -> None:
        """Tell the task to stop where it next looks. For the runtime; safe from any thread."""
        self._stopped = True


def _plain(number: float) -> float:
    """A number that any wire can carry, also of one that is NumPy's, or a Decimal."""
    return number if type(number) in (int, float) else float(number)


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
