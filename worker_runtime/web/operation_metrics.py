"""The backend's Prometheus names for operations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from worker_runtime.domain_names import type_of
from worker_runtime.task import TaskDefinition

BUCKETS_S = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_ENDED = ("completed", "failed", "cancelled")


class OperationMetrics:
    """Labels come from the registered domains and the three ends of an operation."""

    def __init__(self, tasks: Sequence[TaskDefinition]) -> None:
        self._tasks = tasks
        self._counts = {
            (type_of(task.domain or task.name), status): [0] * (len(BUCKETS_S) + 1)
            for task in tasks
            for status in _ENDED
        }
        self._sums = dict.fromkeys(self._counts, 0.0)
        self._totals = dict.fromkeys(self._counts, 0)

    def observe(self, operation_type: str, status: str, duration_s: float | None) -> None:
        """An operation has ended; None: it had not begun, and took no time."""
        key = (operation_type, status)
        if key not in self._counts:
            return
        self._totals[key] += 1
        if duration_s is not None:
            self._counts[key][bisect_left(BUCKETS_S, duration_s)] += 1
            self._sums[key] += duration_s

    def collect(self, active: int) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "ktrdr_operations_active", "Operations pending or running", value=active
        )
        labels = ("operation_type", "status")
        total = CounterMetricFamily("ktrdr_operations_total", "Operations ended", labels=labels)
        durations = HistogramMetricFamily(
            "ktrdr_operation_duration_seconds", "How long operations took", labels=labels
        )
        for key, counts in self._counts.items():
            *at_most, count = accumulate(counts)
            total.add_metric(key, self._totals[key])
            buckets = [(f"{float(b)}", float(n)) for b, n in zip(BUCKETS_S, at_most, strict=True)]
            durations.add_metric(key, [*buckets, ("+Inf", float(count))], self._sums[key])
        yield total
        yield durations
        # The backend's own gauges: it fills them, a worker only has their names.
        for name in ("ktrdr_workers_registered_total", "ktrdr_workers_available"):
            yield GaugeMetricFamily(name, "Filled by the backend", labels=("worker_type",))
