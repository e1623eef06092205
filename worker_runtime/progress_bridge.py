"""The progress bridge that a KTRDR worker's engines report through, on top of a JobContext.

For engines that come from there: they keep calling `set_progress`, `_update_state` and
`_append_metric` and reading their cancellation token. New tasks use the context itself. Its names
are those of KTRDR's guide for workers and of the bridges that KTRDR's own workers have.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from worker_runtime.model.activity import Counts
from worker_runtime.model.context import METRICS_KEPT_MAX, JobContext


class CancellationToken:
    """Asked by an engine between two steps whether to stop."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def is_cancelled(self) -> bool:
        """Whether the job was told to stop."""
        return self._context.cancelled

    @property
    def is_cancelled_requested(self) -> bool:
        """The same under the name that the backend's own engines read."""
        return self._context.cancelled


class ProgressBridge:
    """Reports what an engine tells it, and answers what the backend's code reads from one."""

    def __init__(self, context: JobContext) -> None:
        self.operation_id = context.job_id
        self.cancellation_token = CancellationToken(context)
        self._context = context
        self._state: dict[str, Any] = {}
        self._metrics: list[dict[str, Any]] = []

    # The guide's interface

    def set_progress(self, percentage: float, current_step: str | None = None) -> None:
        """Raises ValueError for a percentage that is not finite."""
        self._update_state(percentage=percentage, message=current_step)

    def get_percentage(self) -> float:
        """The last one set, 0 to 100; 0 before that."""
        return float(self._state.get("percentage", 0.0))

    def get_current_step(self) -> str | None:
        """The words that came with the last percentage."""
        step: str | None = self._state.get("message")
        return step

    def get_progress(self) -> dict[str, Any]:
        """`percentage` and `current_step`."""
        return {"percentage": self.get_percentage(), "current_step": self.get_current_step()}

    # The backend's own interface

    def get_status(self) -> dict[str, Any]:
        """The last update: `percentage`, `message`, `timestamp` (ISO 8601) and what else it said;
        empty before the first."""
        return dict(self._state)

    def get_metrics(self, cursor: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The metrics from `cursor` on, and the cursor after them."""
        return self._metrics[cursor:], len(self._metrics)

    def _update_state(self, percentage: float, message: str | None = None, **facts: Any) -> None:
        """`current_step` of `total_epochs`, `items_processed` of `items_total` and `current_item`
        are shown; other facts are for whoever asks the bridge."""
        clamped = min(100.0, max(0.0, float(percentage)))
        item = facts.get("current_item")
        counts = Counts(
            steps_done=_count(facts.get("current_step")),
            steps_total=_count(facts.get("total_epochs")),
            items_done=_count(facts.get("items_processed")),
            items_total=_count(facts.get("items_total")),
            item=None if item is None else str(item),
        )
        self._context.report(clamped, 100.0, step=message, counts=counts)
        timestamp = self._context._clock.now_utc().isoformat()
        self._state = {"percentage": clamped, "message": message, "timestamp": timestamp, **facts}

    def _append_metric(self, metric: dict[str, Any]) -> None:
        """Each number in `metric` becomes a metric of the job, except one that is not finite: a
        loss that diverges must not end the engine that reports it."""
        if len(self._metrics) < METRICS_KEPT_MAX:
            self._metrics.append(metric)
        for name, value in metric.items():
            if isinstance(value, Real) and math.isfinite(value):
                self._context.record_metric(name, float(value))


def _count(value: Any) -> int | None:
    """A count as the backend takes it: whole and not negative."""
    if isinstance(value, Real) and math.isfinite(value):
        return max(0, int(float(value)))
    return None
