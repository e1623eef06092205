"""How long a job would wait in a queue: what stands before it, times what jobs have taken lately.

Assumes nothing about arrivals; a queue whose jobs have never been timed has no forecast, only a
guess by those that run.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker_runtime.clock.source import Clock
from worker_runtime.engine.slots import Lane
from worker_runtime.model.tasks.definition import TaskDefinition

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 60.0

# Each measured second leaves this much of what was measured before it: about half a minute counts.
_MEMORY = 0.97
_READ_EVERY_S = 1.0


class _ServiceTime:
    """The mean seconds of a queue's recent attempts, from the running sums of its tasks."""

    __slots__ = (
        "_count",
        "_monotonic",
        "_read_at",
        "_seconds",
        "_seen_count",
        "_seen_seconds",
        "_tasks",
    )

    def __init__(self, tasks: list[TaskDefinition], clock: Clock) -> None:
        self._tasks = tasks
        self._monotonic = clock.monotonic
        self._seen_count = 0
        self._seen_seconds = 0.0
        self._count = 0.0
        self._seconds = 0.0
        self._read_at = 0.0

    def mean_s(self) -> float | None:
        now = self._monotonic()
        elapsed_s = now - self._read_at
        if elapsed_s >= _READ_EVERY_S or not self._count:
            self._read_at = now
            self._read(_MEMORY ** min(elapsed_s, 1000.0))
        return self._seconds / self._count if self._count else None

    def _read(self, kept: float) -> None:
        count = sum(sum(task.tally.durations) for task in self._tasks)
        seconds = sum(task.tally.seconds for task in self._tasks)
        if count > self._seen_count:
            self._count = self._count * kept + count - self._seen_count
            self._seconds = self._seconds * kept + seconds - self._seen_seconds
        self._seen_count, self._seen_seconds = count, seconds


class Forecast:
    """Predicts waits, one queue at a time."""

    def __init__(self, tasks: Iterable[TaskDefinition], clock: Clock) -> None:
        self._wall = clock.wall
        by_queue: dict[str, list[TaskDefinition]] = {}
        for task in tasks:
            by_queue.setdefault(task.queue, []).append(task)
        self._service = {queue: _ServiceTime(found, clock) for queue, found in by_queue.items()}

    def wait_s(self, lane: Lane, priority: int) -> float | None:
        """Seconds until a job of `priority` that is enqueued now would start; None: no idea."""
        if _starts_at_once(lane):
            return 0.0
        return _wait_s(lane, priority, self._mean_s(lane))

    def guess_s(self, lane: Lane, priority: int) -> float | None:
        """The same to tell a caller who is refused anyway, also where only the running jobs say
        how long theirs take."""
        if _starts_at_once(lane):
            return 0.0
        mean_s = self._mean_s(lane)
        return _wait_s(lane, priority, _running_s(lane, self._wall()) if mean_s is None else mean_s)

    def retry_after_s(self, lane: Lane) -> float:
        """When a place in a full queue is likely: a few of its jobs will have ended by then."""
        mean_s = self._mean_s(lane) or 0.0
        return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, mean_s / lane.concurrency))

    def _mean_s(self, lane: Lane) -> float | None:
        service = self._service.get(lane.name)
        return None if service is None else service.mean_s()


def _starts_at_once(lane: Lane) -> bool:
    return lane.busy < lane.concurrency and not lane.queue.ready_count


def _wait_s(lane: Lane, priority: int, mean_s: float | None) -> float | None:
    if mean_s is None:
        return None
    # Slots that are busy now are half done, on average.
    return (lane.queue.ahead_of(priority) + 0.5) * mean_s / lane.concurrency


def _running_s(lane: Lane, now: float) -> float | None:
    """What the running jobs will have taken, seen at `now` (Unix seconds) in their middle, as they
    are on average."""
    begun_at = [slot.job.started_at for slot in lane.running if slot.job.started_at is not None]
    if not begun_at:
        return None
    return max(0.0, 2 * (now - sum(begun_at) / len(begun_at)))
