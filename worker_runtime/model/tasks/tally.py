"""What one task's jobs came to in this process: the numbers behind the metrics."""

from __future__ import annotations

from worker_runtime.model.states import Reason

DURATION_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    30.0,
    60.0,
    300.0,
)


class Tally:
    """What has happened to one task's jobs in this process. Plain numbers: a labelled Prometheus
    counter costs more than the whole rest of a job's way, so they are exported at scrape time.

    `durations` counts attempts by `DURATION_BUCKETS_S`, the last place is for longer ones;
    `seconds` is their sum.
    """

    __slots__ = ("accepted", "cancelled", "completed", "durations", "failed", "retried", "seconds")

    def __init__(self) -> None:
        self.accepted = 0
        self.completed = 0
        self.cancelled = 0
        self.retried = 0
        self.failed: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.durations = [0] * (len(DURATION_BUCKETS_S) + 1)
        self.seconds = 0.0
