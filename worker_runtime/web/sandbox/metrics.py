"""The sandbox's Prometheus metrics: the names of its guide and those of its real workers.

The dashboards query the second set, the guide documents the first, so that both are served. Kept
as plain numbers, because a labelled counter of the client library costs more than a job does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from worker_runtime.metrics import cumulative

STATUSES = ("success", "failed", "rejected", "overloaded", "error")

_GUIDE_BOUNDS_MS = (10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
_WORKER_BOUNDS_MS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_BOUNDS_MS = tuple(sorted({*_GUIDE_BOUNDS_MS, *_WORKER_BOUNDS_MS}))


class SandboxMetrics:
    """What `POST /task` has answered, all series labelled with the worker's name."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._counts = dict.fromkeys(STATUSES, 0)
        self._counts_by_ms = [0] * (len(_BOUNDS_MS) + 1)
        self._sum_ms = 0.0

    def count(self, status: str) -> None:
        self._counts[status] += 1

    def observe(self, duration_ms: float) -> None:
        self._counts_by_ms[bisect_left(_BOUNDS_MS, duration_ms)] += 1
        self._sum_ms += duration_ms

    def collect(self, *, running: int, waiting: int) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "worker_requests_total", "Total requests processed", labels=("worker", "status")
        )
        for status, count in self._counts.items():
            requests.add_metric((self._worker, status), count)
        yield requests
        yield self._gauge("worker_active_requests", "Current active requests", running)
        yield self._gauge("worker_current_load", "Current active requests", running)
        yield self._gauge("worker_queue_depth", "Current queue depth", waiting)
        yield self._histogram("worker_processing_time_ms", _GUIDE_BOUNDS_MS)
        yield self._histogram("worker_request_duration_ms", _WORKER_BOUNDS_MS)

    def _gauge(self, name: str, text: str, value: int) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=("worker",))
        gauge.add_metric((self._worker,), value)
        return gauge

    def _histogram(self, name: str, bounds_ms: tuple[int, ...]) -> Metric:
        buckets = cumulative(_BOUNDS_MS, self._counts_by_ms, bounds_ms)
        histogram = HistogramMetricFamily(name, "Request processing time", labels=("worker",))
        histogram.add_metric((self._worker,), buckets, self._sum_ms)
        return histogram
