"""The waiting jobs of one named queue: a ready line per priority and a heap of delayed jobs.

Plain functions on plain data: nothing here waits or knows who asks.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import chain

from worker_runtime.clock.source import Clock
from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority

_COMPACT_AT_LEAST = 256


class PriorityQueue:
    """Strict priorities, first in first out within one.

    Guarantees: a withdrawn job is never popped, and `waiting` counts each waiting job once.
    Assumes: a job is pushed only while it is not already waiting.
    """

    __slots__ = ("_delayed", "_lines", "_reserved", "_withdrawn", "waiting")

    can_take_turns = True

    def __init__(self) -> None:
        self._lines: tuple[deque[Job], ...] = tuple(deque() for _ in Priority)
        self._delayed: list[tuple[float, int, Job]] = []
        self._withdrawn: set[str] = set()
        self._reserved = 0
        self.waiting = 0

    def __iter__(self) -> Iterator[Job]:
        """Waiting jobs: ready ones in the order they would start, then delayed ones by due time."""
        delayed = (job for _, _, job in sorted(self._delayed, key=lambda entry: entry[:2]))
        for job in chain(*self._lines, delayed):
            if job.id not in self._withdrawn:
                yield job

    def reserve(self) -> None:
        """Count a job as waiting that is kept elsewhere until it may be pushed."""
        self._reserved += 1
        self.waiting += 1

    def unreserve(self) -> None:
        self._reserved -= 1
        self.waiting -= 1

    @property
    def ready_count(self) -> int:
        """Waiting jobs that are due, whether or not a slot is free for them."""
        here = self.waiting - self._reserved
        if not self._withdrawn:
            return here - len(self._delayed)
        withdrawn = self._withdrawn
        return here - sum(job.id not in withdrawn for _, _, job in self._delayed)

    @property
    def next_due(self) -> float | None:
        """Unix seconds at which the earliest delayed job becomes ready; None without one."""
        while self._delayed and self._delayed[0][2].id in self._withdrawn:
            self._forget(heapq.heappop(self._delayed)[2])
        return self._delayed[0][0] if self._delayed else None

    def push(self, job: Job) -> None:
        """Add a job that is due."""
        if self._withdrawn and job.id in self._withdrawn:
            self._compact()
        self._lines[job.priority].append(job)
        self.waiting += 1

    def push_delayed(self, job: Job) -> None:
        """Add a job that becomes ready at its `due_at`."""
        if self._withdrawn and job.id in self._withdrawn:
            self._compact()
        heapq.heappush(self._delayed, (job.due_at, job.order, job))
        self.waiting += 1

    def promote_due(self, now: float) -> list[Job]:
        """Move the delayed jobs that are due at `now` to the ready lines, and return them."""
        due: list[Job] = []
        while self._delayed and self._delayed[0][0] <= now:
            job = heapq.heappop(self._delayed)[2]
            if job.id in self._withdrawn:
                self._forget(job)
            else:
                self._lines[job.priority].append(job)
                due.append(job)
        return due

    def pop_nowait(self) -> Job | None:
        """The job that starts next; None where none is ready."""
        if self._withdrawn:
            self._drop_withdrawn_heads()
        for line in self._lines:
            if line:
                job = line.popleft()
                self.waiting -= 1
                return job
        return None

    def withdraw(self, job: Job) -> None:
        """Take a waiting job out. Its entry stays until it surfaces or too many have piled up."""
        self._withdrawn.add(job.id)
        self.waiting -= 1
        if len(self._withdrawn) > max(_COMPACT_AT_LEAST, self.waiting):
            self._compact()

    def position(self, job: Job) -> int | None:
        """How many ready jobs would start up to and including this one; None if it is not ready."""
        place = 0
        for line in self._lines[: job.priority + 1]:
            for other in line:
                if other.id not in self._withdrawn:
                    place += 1
                    if other is job:
                        return place
        return None

    def ahead_of(self, priority: int) -> int:
        """How many ready jobs would start before one of `priority` that is pushed now. Withdrawn
        ones may still be counted."""
        return sum(map(len, self._lines[: priority + 1]))

    def _drop_withdrawn_heads(self) -> None:
        for line in self._lines:
            while line and line[0].id in self._withdrawn:
                self._forget(line.popleft())

    def _forget(self, job: Job) -> None:
        self._withdrawn.discard(job.id)

    def _compact(self) -> None:
        withdrawn = self._withdrawn
        for line in self._lines:
            kept = [job for job in line if job.id not in withdrawn]
            line.clear()
            line.extend(kept)
        self._delayed = [entry for entry in self._delayed if entry[2].id not in withdrawn]
        heapq.heapify(self._delayed)
        withdrawn.clear()


class AgingQueue(PriorityQueue):
    """A job that has waited n times `aging_s` seconds competes n priorities higher; ties go to the
    higher original priority."""

    __slots__ = ("_aging_s", "_wall")

    can_take_turns = False

    def __init__(self, aging_s: float, clock: Clock) -> None:
        super().__init__()
        self._wall = clock.wall
        self._aging_s = aging_s

    def pop_nowait(self) -> Job | None:
        self._drop_withdrawn_heads()
        now = self._wall()
        best: deque[Job] | None = None
        best_rank = 0
        for priority, line in enumerate(self._lines):
            if line:  # the oldest stands first, so only the heads can win
                waited_s = max(0.0, now - max(line[0].created_at, line[0].due_at))
                rank = max(0, priority - int(waited_s / self._aging_s))
                if best is None or rank < best_rank:
                    best, best_rank = line, rank
        if best is None:
            return None
        job = best.popleft()
        self.waiting -= 1
        return job
