"""What a job's attempts reported, and what they came to. Plain data, bounded."""

from __future__ import annotations

import msgspec

from worker_runtime.model.states import Reason

ATTEMPTS_KEPT_MAX = 20


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
