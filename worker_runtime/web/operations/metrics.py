"""The backend's Prometheus names for operations, which its dashboards ask for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from worker_runtime.contracts.domains import type_of
from worker_runtime.metrics import cumulative
from worker_runtime.model.tasks.definition import TaskDefinition

BUCKETS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_ENDED = ("completed", "failed", "cancelled")


class _Ends:
    """How many operations ended in one way, and how long those took that had begun."""

    __slots__ = ("counts", "seconds", "total")

    def __init__(self) -> None:
        self.total = 0
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0


class OperationMetrics:
    """Labels come from the registered domains and the three ends of an operation."""

    def __init__(self, tasks: Sequence[TaskDefinition]) -> None:
        self._tasks = tasks
        self._ends = {
            (type_of(task.domain or task.name), status): _Ends()
            for task in tasks
            for status in _ENDED
        }

    def observe(self, operation_type: str, status: str, duration_s: float | None) -> None:
        """An operation has ended; None: it had not begun, and took no time."""
        ends = self._ends.get((operation_type, status))
        if ends is None:
            return
        ends.total += 1
        if duration_s is not None:
            ends.counts[bisect_left(BUCKETS_S, duration_s)] += 1
            ends.seconds += duration_s

    def collect(self, active: int) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "ktrdr_operations_active", "Operations pending or running", value=active
        )
        labels = ("operation_type", "status")
        total = CounterMetricFamily("ktrdr_operations_total", "Operations ended", labels=labels)
        durations = HistogramMetricFamily(
            "ktrdr_operation_duration_seconds", "How long operations took", labels=labels
        )
        for key, ends in self._ends.items():
            total.add_metric(key, ends.total)
            durations.add_metric(key, cumulative(BUCKETS_S, ends.counts), ends.seconds)
        yield total
        yield durations
        # The backend's own gauges: it fills them, a worker only has their names.
        for name in ("ktrdr_workers_registered_total", "ktrdr_workers_available"):
            yield GaugeMetricFamily(name, "Filled by the backend", labels=("worker_type",))
