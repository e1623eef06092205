"""Rates and concurrency per queue, per task and per key: which waiting job may start now.

A key is what the jobs of one party share, for example a customer. Keys take turns, so that one with
a thousand jobs does not keep one with a single job waiting.

Nothing is searched. A line whose first job may not start stands at the barrier of a limit that is
used up, out of the way of all others. When that limit may let one start, its barriers are opened,
and the first line that stands there comes up again in its old place. So a job costs the logarithm
of how many lines there are, whichever of them may start.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from math import inf

from worker_runtime.clock.source import Clock
from worker_runtime.engine.lines.priority_queue import PriorityQueue
from worker_runtime.engine.lines.usage import Use
from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority
from worker_runtime.model.tasks.policy import Limit

_STALE_AT_LEAST = 64

_Scope = tuple[str, str, str]
_Place = tuple[int, int]  # priority and turn: the lower comes up first


class Limits:
    """What all limits of a runtime have in use, whichever queue the jobs came through.

    opened  the queues in which jobs may start again that could not; who wakes them empties it
    """

    def __init__(
        self, queues: Mapping[str, tuple[Limit | None, Limit | None]], clock: Clock
    ) -> None:
        """`queues`: the limit of each queue as a whole, and of each key in it."""
        self._queues = queues
        self._monotonic = clock.monotonic
        self._uses: dict[_Scope, Use] = {}
        self._of_keys: deque[_Scope] = deque()
        self._taken: dict[str, tuple[Use, ...]] = {}
        self._pending: set[str] = set()
        self._timed: list[tuple[float, int, Use]] = []
        self._number = count()
        self.opened: dict[LimitedQueue, None] = {}

    @property
    def next_at(self) -> float | None:
        """When (monotonic) `open_due` has something to do; None: not by time alone."""
        return self._timed[0][0] if self._timed else None

    def join(self, job: Job) -> tuple[Use, ...]:
        """The limits that a new line falls under whose first job is `job`, the widest first."""
        uses = []
        for scope, limit in self._of(job):
            use = self._use(scope, limit)
            use.lines += 1
            uses.append(use)
        return tuple(uses)

    def leave(self, uses: tuple[Use, ...]) -> None:
        """The line is no more."""
        for use in uses:
            use.lines -= 1

    def used_up(self, uses: tuple[Use, ...]) -> Use | None:
        """The first of them that lets nothing start now; None where all do."""
        if not uses:
            return None
        now = self._monotonic()
        return next((use for use in uses if use.free_at(now) > now), None)

    def take(self, job: Job, uses: tuple[Use, ...]) -> None:
        """An attempt of `job` is let start."""
        if not uses:
            return
        self._taken[job.id] = uses
        for use in uses:
            use.running += 1
            if use.window is not None:
                use.pending += 1
                self._pending.add(job.id)

    def began(self, job: Job) -> None:
        """The function of an attempt that was let start is called now: from here on a rate counts.
        Until then it may have waited, for a thread for one."""
        if job.id not in self._pending:
            return
        self._pending.remove(job.id)
        now = self._monotonic()
        for use in self._taken[job.id]:
            if use.window is not None:
                use.pending -= 1
                use.window.start(now)
                self._look_at(use, now)

    def release(self, job: Job) -> None:
        """An attempt of `job` has ended. One that never began has used no rate."""
        uses = self._taken.pop(job.id, ())
        has_begun = job.id not in self._pending
        self._pending.discard(job.id)
        now = self._monotonic()
        for use in uses:
            use.running -= 1
            if use.window is not None and not has_begun:
                use.pending -= 1
            self._look_at(use, now)

    def open_due(self) -> None:
        """Open the barriers of the rates that may let one start by now."""
        if not self._timed:
            return
        now = self._monotonic()
        while self._timed and self._timed[0][0] <= now:
            use = heapq.heappop(self._timed)[2]
            use.is_timed = False
            self._look_at(use, now)

    def wait_for(self, use: Use) -> None:
        """Have the barriers of a limit that is used up opened when it is no longer."""
        self._look_at(use, self._monotonic())

    def _look_at(self, use: Use, now: float) -> None:
        if not use.barriers:
            return
        at = use.free_at(now)
        if at <= now:
            for barrier in use.barriers:
                barrier.open()
        elif at < inf and not use.is_timed:  # nothing that happens brings a set time forward
            use.is_timed = True
            heapq.heappush(self._timed, (at, next(self._number), use))

    def _use(self, scope: _Scope, limit: Limit) -> Use:
        use = self._uses.get(scope)
        if use is None:
            if scope[2]:
                self._forget_idle()
                self._of_keys.append(scope)
            use = self._uses[scope] = Use(limit)
        return use

    def _forget_idle(self) -> None:
        """Look at two keys for each that is new: so that those kept are in proportion to those in
        use, and there is never a moment in which all are gone through."""
        now = self._monotonic()
        for _ in range(min(2, len(self._of_keys))):
            scope = self._of_keys.popleft()
            if self._uses[scope].is_idle(now):
                del self._uses[scope]
            else:
                self._of_keys.append(scope)

    def _of(self, job: Job) -> Iterator[tuple[_Scope, Limit]]:
        whole, per_key = self._queues.get(job.queue, (None, None))
        key = key_of(job)
        if whole is not None:
            yield ("queue", job.queue, ""), whole
        if job.task.limit is not None:
            yield ("task", job.task.name, ""), job.task.limit
        if per_key is not None and key is not None:
            yield ("queue", job.queue, key), per_key
        if job.task.per_key is not None and key is not None:
            yield ("task", job.task.name, key), job.task.per_key


def key_of(job: Job) -> str | None:
    return None if job.options is None else job.options.key


class _Line:
    """The jobs of one task and key, in order, of one priority. It stands in one place: among those
    that come up, or at a barrier."""

    __slots__ = ("jobs", "key", "priority", "turn", "uses")

    def __init__(
        self, priority: int, key: tuple[str, str | None], turn: int, uses: tuple[Use, ...]
    ) -> None:
        self.priority = priority
        self.key = key
        self.turn = turn
        self.uses = uses
        self.jobs: deque[Job] = deque()


class _Barrier:
    """The lines of one queue that wait for one limit. While it is open its first line's place is
    among those that come up, as the entry of that `number`."""

    __slots__ = ("lines", "number", "place", "queue", "use")

    def __init__(self, queue: LimitedQueue, use: Use) -> None:
        self.queue = queue
        self.use = use
        self.lines: list[tuple[int, int, _Line]] = []
        self.number: int | None = None
        self.place: _Place = (0, 0)

    def open(self) -> None:
        self.queue.open_barrier(self)


class LimitedQueue(PriorityQueue):
    """A PriorityQueue that lets start only what the limits allow.

    Guarantees: priorities stay strict among the jobs that may start; keys of one priority take
    turns; jobs of one task and key stay in order. A job that may not start lets others pass. What
    is popped has taken its limits; it is given back with `release`.
    """

    __slots__ = (
        "_barriers",
        "_by_key",
        "_coming",
        "_limits",
        "_number",
        "_ready",
        "_stale",
        "_turn",
        "name",
    )

    def __init__(self, limits: Limits, name: str = "") -> None:
        super().__init__()
        self.name = name
        self._limits = limits
        self._by_key: tuple[dict[tuple[str, str | None], _Line], ...] = tuple({} for _ in Priority)
        # What comes up, by place: lines, and the barriers that are open. `_stale` entries are of
        # barriers that have a better one by now.
        self._coming: list[tuple[int, int, int, _Line | _Barrier]] = []
        self._barriers: dict[Use, _Barrier] = {}
        self._ready = [0] * len(Priority)
        self._turn = count()
        self._number = count(1)
        self._stale = 0

    @classmethod
    def taking_over(cls, queue: PriorityQueue, limits: Limits, name: str) -> LimitedQueue:
        """One with the jobs of a queue that had no limits. What runs of it is under none."""
        limited = cls(limits, name)
        limited._delayed = queue._delayed
        limited._withdrawn = queue._withdrawn
        limited._reserved = queue._reserved
        limited.waiting = queue.waiting
        for line in queue._lines:
            for job in line:
                limited._add(job)
        return limited

    def __iter__(self) -> Iterator[Job]:
        for lines in self._by_key:
            for line in sorted(lines.values(), key=lambda line: line.turn):
                yield from (job for job in line.jobs if job.id not in self._withdrawn)
        yield from super().__iter__()

    def push(self, job: Job) -> None:
        if job.id in self._withdrawn:
            self._compact()
        self.waiting += 1
        self._add(job)

    def promote_due(self, now: float) -> list[Job]:
        due = super().promote_due(now)
        for arrived in self._lines:
            while arrived:
                self._add(arrived.popleft())
        return due

    def pop_nowait(self) -> Job | None:
        limits, coming = self._limits, self._coming
        limits.open_due()
        while coming:
            priority, turn, number, found = heapq.heappop(coming)
            if isinstance(found, _Line):
                line = found
            elif found.number != number:
                self._stale -= 1
                continue
            else:
                first = self._first_at(found, (priority, turn))
                if first is None:
                    continue
                line = first
            self._drop_withdrawn(line)
            if not line.jobs:
                self._forget_line(line)
                continue
            full = limits.used_up(line.uses)
            if full is None:
                return self._start(line)
            self._stand_at(line, full)
        return None

    def position(self, job: Job) -> int | None:
        """The place in the line of its own task and key."""
        line = self._by_key[job.priority].get(_line_key(job))
        ready = (j for j in (line.jobs if line else ()) if j.id not in self._withdrawn)
        return next((place for place, other in enumerate(ready, 1) if other is job), None)

    def ahead_of(self, priority: int) -> int:
        return sum(self._ready[: priority + 1])

    def began(self, job: Job) -> None:
        self._limits.began(job)

    def release(self, job: Job) -> None:
        self._limits.release(job)

    def open_barrier(self, barrier: _Barrier) -> None:
        """For `Limits`: a limit that jobs wait for may let another start."""
        self._limits.opened[self] = None
        self._let_come(barrier)

    def _add(self, job: Job) -> None:
        key = _line_key(job)
        lines = self._by_key[job.priority]
        line = lines.get(key)
        if line is None:
            line = _Line(job.priority, key, next(self._turn), self._limits.join(job))
            lines[key] = line
            heapq.heappush(self._coming, (line.priority, line.turn, 0, line))
        line.jobs.append(job)
        self._ready[job.priority] += 1

    def _start(self, line: _Line) -> Job:
        job = line.jobs.popleft()
        self._ready[line.priority] -= 1
        self._limits.take(job, line.uses)
        if line.jobs:
            line.turn = next(self._turn)
            heapq.heappush(self._coming, (line.priority, line.turn, 0, line))
        else:
            self._forget_line(line)
        self.waiting -= 1
        return job

    def _stand_at(self, line: _Line, full: Use) -> None:
        barrier = self._barriers.get(full)
        if barrier is None:
            barrier = self._barriers[full] = _Barrier(self, full)
            full.barriers.append(barrier)
        heapq.heappush(barrier.lines, (line.priority, line.turn, line))
        self._limits.wait_for(full)

    def _first_at(self, barrier: _Barrier, place: _Place) -> _Line | None:
        """The line that comes up from an open barrier; None where none does after all."""
        barrier.number = None
        if self._limits.used_up((barrier.use,)) is not None:
            self._limits.wait_for(barrier.use)
            return None
        if barrier.lines[0][:2] != place:  # those before it were withdrawn
            self._let_come(barrier)
            return None
        line = heapq.heappop(barrier.lines)[2]
        if barrier.lines:
            self._let_come(barrier)
        else:
            self._forget_barrier(barrier)
        return line

    def _let_come(self, barrier: _Barrier) -> None:
        """Have the first line at a barrier come up in its place, if it does not already."""
        place = barrier.lines[0][:2]
        if barrier.number is not None:
            if barrier.place <= place:
                return
            self._stale += 1
        barrier.number, barrier.place = next(self._number), place
        heapq.heappush(self._coming, (*place, barrier.number, barrier))
        if self._stale > max(_STALE_AT_LEAST, len(self._coming) // 2):
            self._drop_stale()

    def _drop_withdrawn(self, line: _Line) -> None:
        jobs = line.jobs
        while jobs and jobs[0].id in self._withdrawn:
            self._forget(jobs.popleft())
            self._ready[line.priority] -= 1

    def _drop_stale(self) -> None:
        """Leave only what still comes up. In place: it may be gone through right now."""
        self._coming[:] = [entry for entry in self._coming if _is_live(entry[2], entry[3])]
        heapq.heapify(self._coming)
        self._stale = 0

    def _forget_line(self, line: _Line) -> None:
        del self._by_key[line.priority][line.key]
        self._limits.leave(line.uses)

    def _forget_barrier(self, barrier: _Barrier) -> None:
        del self._barriers[barrier.use]
        barrier.use.barriers.remove(barrier)
        barrier.number = None

    def _compact(self) -> None:
        for priority, lines in enumerate(self._by_key):
            for line in list(lines.values()):
                line.jobs = deque(job for job in line.jobs if job.id not in self._withdrawn)
                if not line.jobs:
                    self._forget_line(line)
            self._ready[priority] = sum(len(line.jobs) for line in lines.values())
        for barrier in list(self._barriers.values()):
            barrier.lines = [entry for entry in barrier.lines if entry[2].jobs]
            heapq.heapify(barrier.lines)
            if not barrier.lines:
                self._forget_barrier(barrier)
        self._drop_stale()
        super()._compact()


def _line_key(job: Job) -> tuple[str, str | None]:
    return (job.task.name if job.task.is_limited else "", key_of(job))


def _is_live(number: int, found: _Line | _Barrier) -> bool:
    return bool(found.jobs) if isinstance(found, _Line) else found.number == number
