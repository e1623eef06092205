"""Vera's figures, as JSON numbers and under its own Prometheus names, which have no labels."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from worker_runtime.metrics import cumulative
from worker_runtime.model.tasks.tally import DURATION_BUCKETS_S
from worker_runtime.runtime import Runtime

# The bounds that prometheus_client gives a histogram of its own, as Vera's guide does.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class VeraMetrics:
    """Sums over all tasks and queues, read from the runtime's own counters when somebody asks."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def active(self) -> int:
        return self._runtime.doorway.running_count()

    @property
    def waiting(self) -> int:
        return self._runtime.doorway.waiting_count()

    @property
    def completed(self) -> int:
        return sum(task.tally.completed for task in self._runtime.tasks)

    @property
    def failed(self) -> int:
        """Failed and cancelled ones: Vera has one word for both."""
        tallies = [task.tally for task in self._runtime.tasks]
        return sum(tally.cancelled + sum(tally.failed.values()) for tally in tallies)

    @property
    def average_s(self) -> float:
        """The mean duration of an attempt; 0 before the first has ended."""
        count = sum(sum(task.tally.durations) for task in self._runtime.tasks)
        return sum(task.tally.seconds for task in self._runtime.tasks) / count if count else 0.0

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "tasks_completed_total", "Total tasks completed", value=self.completed
        )
        yield CounterMetricFamily("tasks_failed_total", "Total tasks failed", value=self.failed)
        yield self._durations()
        yield GaugeMetricFamily("active_tasks", "Currently executing tasks", value=self.active)
        yield GaugeMetricFamily("queue_size", "Number of queued tasks", value=self.waiting)

    def _durations(self) -> Metric:
        nothing = [0] * (len(DURATION_BUCKETS_S) + 1)
        tallies = (task.tally.durations for task in self._runtime.tasks)
        counts = map(sum, zip(nothing, *tallies, strict=True))
        return HistogramMetricFamily(
            "task_duration_seconds",
            "Task execution time",
            buckets=cumulative(DURATION_BUCKETS_S, counts, BUCKETS_S),
            sum_value=sum(task.tally.seconds for task in self._runtime.tasks),
        )
