"""Rates and concurrency per queue, per task and per key: which waiting job may start now.

A key is what the jobs of one party share, for example a customer. Keys take turns, so that one with
a thousand jobs does not keep one with a single job waiting.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping

from worker_runtime.clock.source import Clock
from worker_runtime.engine.lines.priority_queue import PriorityQueue
from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority
from worker_runtime.model.tasks.policy import Limit

_USES_KEPT_MAX = 10_000


class _Use:
    """How much of one limit is used: attempts that run, and when the rate is at rest again.

    A rate of n per s seconds lets n start at once and then one each s/n seconds (the generic cell
    rate algorithm): each start moves `rested_at` that much further into the future.
    """

    __slots__ = ("rested_at", "running")

    def __init__(self) -> None:
        self.running = 0
        self.rested_at = 0.0

    def wait_s(self, limit: Limit, now: float) -> float:
        """0 when another may start; infinite when one has to end first."""
        if limit.concurrency is not None and self.running >= limit.concurrency:
            return float("inf")
        if limit.rate is None:
            return 0.0
        return max(0.0, self.rested_at + limit.per_s / limit.rate - limit.per_s - now)

    def take(self, limit: Limit, now: float) -> None:
        self.running += 1
        if limit.rate is not None:
            self.rested_at = max(self.rested_at, now) + limit.per_s / limit.rate


class Limits:
    """What all limits of a runtime have in use, whichever queue the jobs came through."""

    def __init__(
        self, queues: Mapping[str, tuple[Limit | None, Limit | None]], clock: Clock
    ) -> None:
        """`queues`: the limit of each queue as a whole, and of each key in it."""
        self._queues = queues
        self.wall = clock.wall
        self._uses: dict[tuple[str, str, str], _Use] = {}

    def wait_s(self, job: Job, now: float) -> float:
        """Seconds until `job` may start; infinite when an attempt has to end first."""
        waits = (self._use(scope).wait_s(limit, now) for scope, limit in self._of(job))
        return max(waits, default=0.0)

    def take(self, job: Job, now: float) -> None:
        for scope, limit in self._of(job):
            self._use(scope).take(limit, now)

    def release(self, job: Job) -> None:
        """An attempt of `job` that was taken in has ended."""
        for scope, _ in self._of(job):
            self._use(scope).running -= 1
        if len(self._uses) > _USES_KEPT_MAX:
            now = self.wall()
            self._uses = {s: u for s, u in self._uses.items() if u.running or u.rested_at > now}

    def _use(self, scope: tuple[str, str, str]) -> _Use:
        use = self._uses.get(scope)
        if use is None:
            use = self._uses[scope] = _Use()
        return use

    def _of(self, job: Job) -> Iterator[tuple[tuple[str, str, str], Limit]]:
        whole, per_key = self._queues.get(job.queue, (None, None))
        key = key_of(job)
        if whole is not None:
            yield ("queue", job.queue, ""), whole
        if per_key is not None and key is not None:
            yield ("queue", job.queue, key), per_key
        if job.task.limit is not None:
            yield ("task", job.task.name, ""), job.task.limit
        if job.task.per_key is not None and key is not None:
            yield ("task", job.task.name, key), job.task.per_key


def key_of(job: Job) -> str | None:
    return None if job.options is None else job.options.key


class LimitedQueue(PriorityQueue):
    """A PriorityQueue that lets start only what the limits allow.

    Guarantees: priorities stay strict among the jobs that may start; keys of one priority take
    turns; jobs of one task and key stay in order. A job that may not start lets others pass, so
    that a look costs as much as there are tasks and keys waiting.
    """

    __slots__ = ("_limits", "_turns", "allowed_at")

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._turns: tuple[OrderedDict[tuple[str, str | None], deque[Job]], ...] = tuple(
            OrderedDict() for _ in Priority
        )
        self.allowed_at: float | None = None
        """After `pop_nowait` found none: when (Unix seconds) a rate lets the next one start."""

    def __iter__(self) -> Iterator[Job]:
        for turns in self._turns:
            for line in turns.values():
                yield from (job for job in line if job.id not in self._withdrawn)
        yield from super().__iter__()

    def push(self, job: Job) -> None:
        if job.id in self._withdrawn:
            self._compact()
        self.waiting += 1
        self._line_of(job).append(job)

    def promote_due(self, now: float) -> list[Job]:
        due = super().promote_due(now)
        for arrived in self._lines:
            while arrived:
                job = arrived.popleft()
                self._line_of(job).append(job)
        return due

    def pop_nowait(self) -> Job | None:
        now = self._limits.wall()
        self.allowed_at = None
        for turns in self._turns:
            for turn in list(turns):
                line = turns[turn]
                while line and line[0].id in self._withdrawn:
                    self._forget(line.popleft())
                if not line:
                    del turns[turn]
                elif self._may_start(line[0], now):
                    turns.move_to_end(turn)
                    self._limits.take(line[0], now)
                    self.waiting -= 1
                    return line.popleft()
        return None

    def position(self, job: Job) -> int | None:
        """The place in the line of its own task and key."""
        ready = (j for j in self._line_of(job) if j.id not in self._withdrawn)
        return next((place for place, other in enumerate(ready, 1) if other is job), None)

    def release(self, job: Job) -> None:
        self._limits.release(job)

    def _may_start(self, job: Job, now: float) -> bool:
        wait_s = self._limits.wait_s(job, now)
        if 0 < wait_s < float("inf"):
            self.allowed_at = min(self.allowed_at or float("inf"), now + wait_s)
        return wait_s == 0

    def _line_of(self, job: Job) -> deque[Job]:
        is_limited = job.task.limit is not None or job.task.per_key is not None
        turn = (job.task.name if is_limited else "", key_of(job))
        return self._turns[job.priority].setdefault(turn, deque())

    def _compact(self) -> None:
        for turns in self._turns:
            for line in turns.values():
                kept = [job for job in line if job.id not in self._withdrawn]
                line.clear()
                line.extend(kept)
        super()._compact()
