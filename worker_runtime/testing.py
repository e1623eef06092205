"""Test doubles for code that is written against this package."""

from __future__ import annotations

from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.model.activity import Metric, Progress
from worker_runtime.model.context import JobContext


class RecordingContext(JobContext):
    """A JobContext without a runtime, for unit tests of a task: call the function with it.

    reports   every `ctx.report()`, oldest first; `done`, `total`, `step` and `percentage` of each
    metrics   every `ctx.record_metric()`, oldest first

    `stop()` is what a cancel, a deadline or a shutdown does: the next `raise_if_cancelled()` raises
    JobInterrupted. With `stop_after_reports` that happens by itself after as many reports.
    """

    __slots__ = ("_stop_after_reports", "metrics", "reports")

    def __init__(
        self,
        *,
        job_id: str = "job-1",
        task: str = "task",
        queue: str = "default",
        attempt: int = 1,
        label: str | None = None,
        state: Any = None,
        stop_after_reports: int | None = None,
    ) -> None:
        super().__init__(
            job_id=job_id,
            task=task,
            queue=queue,
            attempt=attempt,
            reporter=self,
            clock=Clock(),
            label=label,
            state=state,
        )
        self.reports: list[Progress] = []
        self.metrics: list[Metric] = []
        self._stop_after_reports = stop_after_reports

    def progress(self, progress: Progress) -> None:
        """For `report`, which has checked it."""
        self.reports.append(progress)
        if len(self.reports) == self._stop_after_reports:
            self.stop()

    def metric(self, metric: Metric) -> None:
        """For `record_metric`, which has checked it."""
        self.metrics.append(metric)
