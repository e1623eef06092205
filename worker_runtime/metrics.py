"""Every Prometheus name this process exports about its runtime.

The runtime counts in plain numbers; this module reads them when someone scrapes. Names are in base
units, and every label comes from a closed set: tasks, queues and executors that are registered,
kinds of stores, states and reasons. Nothing a caller sends becomes a label.
"""

from __future__ import annotations

import itertools
import platform
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from prometheus_client import PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from worker_runtime import __version__
from worker_runtime.executors.process.parent.work import ChildState
from worker_runtime.model.figures import (
    ExecutorStatistics,
    QueueStatistics,
    RuntimeStatistics,
    StoreStatistics,
)
from worker_runtime.model.states import CANCELLED, COMPLETED, FAILED
from worker_runtime.model.tasks.tally import DURATION_BUCKETS_S
from worker_runtime.runtime import Runtime

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_QUEUE_FIGURES = {
    "ready": "Jobs that are due and wait for a slot.",
    "scheduled": "Jobs that wait for their time.",
    "running": "Attempts that run, also given up ones that keep their place.",
    "concurrency": "Attempts that may run at a time.",
    "capacity": "Jobs that may wait.",
    "paused": "1 while the queue starts nothing.",
}

_EXECUTOR_FIGURES = {
    "size": "Threads or child processes that the executor may use.",
    "busy": "Threads or child processes that run an attempt.",
    "waiting": "Attempts that wait for a thread or child process.",
    "abandoned": "Attempts that were given up and still hold a coroutine, thread or child.",
}

_STORE_KINDS = frozenset({"memory", "sqlite", "redis"})

_STORE_FIGURES = {
    "results_held_back": (
        GaugeMetricFamily,
        "results_held_back",
        "Ends of jobs and attempts that the store has not written yet.",
    ),
    "last_commit_s": (
        GaugeMetricFamily,
        "last_commit_seconds",
        "How long the last commit of jobs took.",
    ),
    "commits": (CounterMetricFamily, "commits_total", "Transactions that were committed."),
    "rows": (CounterMetricFamily, "rows_total", "Rows that were written in them."),
    "checkpoints": (
        CounterMetricFamily,
        "checkpoints_total",
        "Times the log was copied into the file.",
    ),
    "file_bytes": (GaugeMetricFamily, "file_bytes", "Size of the file."),
    "log_bytes": (GaugeMetricFamily, "log_bytes", "Size of the log beside the file."),
    "leases_held": (
        GaugeMetricFamily,
        "leases_held",
        "Jobs of a shared store that this process has claimed and holds.",
    ),
    "claimed": (
        CounterMetricFamily,
        "claimed_total",
        "Jobs of a shared store that this process has claimed.",
    ),
    "dead_letters": (
        CounterMetricFamily,
        "dead_letters_total",
        "Claimed jobs that nobody can read, and that were parked.",
    ),
}

_CHILDREN_SECONDS = {
    "queue_wait": "Time that calls waited for a child process.",
    "encode": "Time spent on encoding calls for child processes.",
    "transfer": "Time that calls spent on the way to and from child processes.",
}


class RuntimeCollector(Collector):
    """Reads one runtime at scrape time. Assumes it is scraped on the event loop's own thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "worker_runtime_build",
            "The running version.",
            {"version": __version__, "python": platform.python_version()},
        )
        statistics = self._runtime.statistics()
        yield from self._jobs()
        yield self._durations()
        yield from _queues(statistics.queues)
        yield from _executors(statistics.executors)
        yield from self._children()
        yield from _store(statistics.store)
        yield from _process(statistics)

    def _jobs(self) -> Iterator[Metric]:
        accepted = CounterMetricFamily(
            "worker_runtime_jobs_accepted_total", "Jobs accepted.", labels=["task"]
        )
        ended = CounterMetricFamily(
            "worker_runtime_jobs_ended_total",
            "Jobs that reached a terminal state; `reason` says why a failed one failed.",
            labels=["task", "state", "reason"],
        )
        requeued = CounterMetricFamily(
            "worker_runtime_jobs_requeued_total",
            "Attempts whose job waits again: retried, interrupted or asked to run again.",
            labels=["task"],
        )
        for task in self._runtime.tasks:
            tally = task.tally
            accepted.add_metric([task.name], tally.accepted)
            ended.add_metric([task.name, COMPLETED, ""], tally.completed)
            ended.add_metric([task.name, CANCELLED, ""], tally.cancelled)
            for reason, count in tally.failed.items():
                ended.add_metric([task.name, FAILED, reason], count)
            requeued.add_metric([task.name], tally.retried)
        yield from (accepted, ended, requeued)

    def _durations(self) -> Metric:
        durations = HistogramMetricFamily(
            "worker_runtime_attempt_duration_seconds",
            "How long attempts ran; a job that was retried counts once for each.",
            labels=["task"],
        )
        for task in self._runtime.tasks:
            buckets = cumulative(DURATION_BUCKETS_S, task.tally.durations)
            durations.add_metric([task.name], buckets=buckets, sum_value=task.tally.seconds)
        return durations

    def _children(self) -> Iterator[Metric]:
        """Of the process executor, where there is one."""
        statistics = self._runtime.doorway.executors().get("process")
        if statistics is None:
            return
        states = GaugeMetricFamily(
            "worker_runtime_children", "Child processes by what they do.", labels=["state"]
        )
        counts = Counter(child["state"] for child in statistics["children"])
        for state in ChildState:
            states.add_metric([state], counts[state])
        yield states
        replaced = CounterMetricFamily(
            "worker_runtime_children_ended_total",
            "Child processes that ended, by why: replaced, not needed any more, or never warm.",
            labels=["reason"],
        )
        for reason, count in statistics["restarts"].items():
            replaced.add_metric([reason], count)
        yield replaced
        for figure, text in _CHILDREN_SECONDS.items():
            name = f"worker_runtime_children_{figure}_seconds_total"
            yield CounterMetricFamily(name, text, value=statistics[f"{figure}_s"])


def _queues(queues: Iterable[QueueStatistics]) -> Iterator[Metric]:
    for figure, text in _QUEUE_FIGURES.items():
        gauge = GaugeMetricFamily(f"worker_runtime_queue_{figure}", text, labels=["queue"])
        for queue in queues:
            gauge.add_metric([queue.name], int(getattr(queue, figure)))
        yield gauge


def _executors(executors: Mapping[str, ExecutorStatistics]) -> Iterator[Metric]:
    for figure, text in _EXECUTOR_FIGURES.items():
        gauge = GaugeMetricFamily(f"worker_runtime_executor_{figure}", text, labels=["executor"])
        for name, statistics in executors.items():
            value = getattr(statistics, figure)
            if value is not None:  # the event loop has no size
                gauge.add_metric([name], value)
        yield gauge


def _store(statistics: StoreStatistics) -> Iterator[Metric]:
    """What the store measures; it has no metric for what it does not."""
    labels = [statistics.kind if statistics.kind in _STORE_KINDS else "other"]
    unavailable = GaugeMetricFamily(
        "worker_runtime_store_unavailable", "1 while the store takes nothing.", labels=["store"]
    )
    unavailable.add_metric(labels, int(statistics.unavailable is not None))
    yield unavailable
    for figure, (family, name, text) in _STORE_FIGURES.items():
        value = getattr(statistics, figure)
        if value is not None:
            metric = family(f"worker_runtime_store_{name}", text, labels=["store"])
            metric.add_metric(labels, value)
            yield metric


def _process(statistics: RuntimeStatistics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "worker_runtime_accepting",
        "1 while new jobs are accepted.",
        value=int(statistics.accepting),
    )
    yield GaugeMetricFamily(
        "worker_runtime_history_jobs", "Ended jobs kept.", value=statistics.history_count
    )
    yield CounterMetricFamily(
        "worker_runtime_jobs_interrupted_total",
        "Running jobs that a stop interrupted.",
        value=statistics.jobs.interrupted,
    )
    yield GaugeMetricFamily(
        "worker_runtime_event_loop_lag_seconds",
        "How late the event loop ran what was due, at the last measurement.",
        value=statistics.loop_lag_s,
    )
    yield CounterMetricFamily(
        "worker_runtime_event_loop_blocked_total",
        "Times the event loop was blocked for longer than the warning threshold.",
        value=statistics.loop_blocked_count,
    )


_PROCESS = ProcessCollector(registry=None)
_PLATFORM = PlatformCollector(registry=None)


def collectors(runtime: Runtime) -> list[Collector]:
    """What a process that serves `runtime` shows: the runtime's own figures, the process's, and the
    interpreter's."""
    return [RuntimeCollector(runtime), _PROCESS, _PLATFORM]


def exposition(runtime: Runtime, *others: Collector) -> bytes:
    """All metrics as Prometheus text (`CONTENT_TYPE`): the runtime's, the process's and `others`,
    which are collectors or whole registries.

    For a `/metrics` route of one's own. Call it on the event loop's thread.
    """
    registry = CollectorRegistry(auto_describe=False)
    for collector in (*collectors(runtime), *others):
        registry.register(collector)
    return generate_latest(registry)


def cumulative(
    bounds: Sequence[float], counts: Iterable[int], shown: Collection[float] | None = None
) -> list[tuple[str, float]]:
    """A histogram's buckets as Prometheus has them: each with all that is not above its bound.

    bounds  rising; a bucket is named as its bound is written
    counts  how many lie between one bound and the next, and at last how many above them all
    shown   the bounds that make a bucket; None: all of them
    """
    *at_most, total = itertools.accumulate(counts)
    buckets = [
        (str(bound), float(count))
        for bound, count in zip(bounds, at_most, strict=True)
        if shown is None or bound in shown
    ]
    return [*buckets, ("+Inf", float(total))]
