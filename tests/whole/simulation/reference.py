"""What a runtime should do, written as simply as possible: lists, and no concurrency at all.

It predicts exactly which job runs, in which order and in which state every other one is. How jobs
are stored is no matter of it, so that every store can be held against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker_runtime import State

ENDED = (State.COMPLETED, State.FAILED, State.CANCELLED)


@dataclass(eq=False)
class ExpectedJob:
    """One accepted job. `place` orders ready jobs of one priority, `order` those that are due at
    the same time. `due_at` is Unix seconds."""

    id: str
    payload: int
    priority: int
    order: int
    state: State = State.QUEUED
    place: int = 0
    due_at: float = 0.0
    attempt: int = 0

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED


@dataclass
class Reference:
    """One queue with `concurrency` slots and room for `capacity` waiting jobs."""

    concurrency: int
    capacity: int
    attempts_max: int
    jobs: dict[str, ExpectedJob] = field(default_factory=dict)
    started: list[tuple[str, int]] = field(default_factory=list)
    is_paused: bool = False
    _places: int = 0

    def of_state(self, *states: State) -> list[ExpectedJob]:
        return [job for job in self.jobs.values() if job.state in states]

    @property
    def running(self) -> list[ExpectedJob]:
        return self.of_state(State.RUNNING)

    @property
    def waiting(self) -> list[ExpectedJob]:
        return self.of_state(State.QUEUED, State.SCHEDULED)

    def has_room(self, count: int, *, is_delayed: bool) -> bool:
        """Jobs that start at once need no room."""
        starts = 0 if self.is_paused or is_delayed else self.concurrency - len(self.running)
        return len(self.waiting) + count - starts <= self.capacity

    def accept(self, job_id: str, payload: int, priority: int, due_at: float) -> None:
        order = len(self.jobs) + 1
        job = ExpectedJob(job_id, payload, priority, order, due_at=due_at)
        self.jobs[job_id] = job
        self._wait(job, due_at)

    def cancel(self, job: ExpectedJob) -> None:
        job.state = State.CANCELLED

    def complete(self, job: ExpectedJob) -> None:
        job.state = State.COMPLETED

    def fail(self, job: ExpectedJob, retry_at: float) -> None:
        if job.attempt < self.attempts_max:
            self._wait(job, retry_at)
        else:
            job.state = State.FAILED

    def run_again(self, job: ExpectedJob, due_at: float, *, uses_attempt: bool) -> None:
        if not uses_attempt:
            job.attempt -= 1
        elif job.attempt >= self.attempts_max:
            job.state = State.FAILED
            return
        self._wait(job, due_at)

    def retry(self, job: ExpectedJob) -> None:
        """Somebody asks for an ended job to run again."""
        job.attempt = 0
        self._wait(job, 0.0)

    def promote(self, now: float) -> None:
        due = [job for job in self.of_state(State.SCHEDULED) if job.due_at <= now]
        for job in sorted(due, key=lambda job: (job.due_at, job.order)):
            self._wait(job, 0.0)

    def start(self) -> None:
        """Start what can be: by priority, then by place."""
        while not self.is_paused and len(self.running) < self.concurrency:
            ready = self.of_state(State.QUEUED)
            if not ready:
                return
            job = min(ready, key=lambda job: (job.priority, job.place))
            job.state = State.RUNNING
            job.attempt += 1
            self.started.append((job.id, job.attempt))

    def _wait(self, job: ExpectedJob, due_at: float) -> None:
        self._places += 1
        job.place = self._places
        if due_at:
            job.due_at = due_at
        job.state = State.SCHEDULED if due_at else State.QUEUED
