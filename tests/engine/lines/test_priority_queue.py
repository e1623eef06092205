"""The order in which waiting jobs come out, whatever was withdrawn, delayed or aged."""

from __future__ import annotations

import time

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.jobs import make_job
from worker_runtime import Priority
from worker_runtime.clock.source import SYSTEM
from worker_runtime.engine.lines.priority_queue import AgingQueue, PriorityQueue
from worker_runtime.model.job import Job


def popped(queue: PriorityQueue) -> list[Job]:
    found = []
    while (job := queue.pop_nowait()) is not None:
        found.append(job)
    return found


def test_higher_priorities_first_and_first_in_first_out_within_one() -> None:
    queue = PriorityQueue()
    jobs = [make_job(priority=p) for p in (*reversed(Priority), *Priority)]
    for job in jobs:
        queue.push(job)
    assert popped(queue) == sorted(jobs, key=lambda job: (job.priority, job.order))
    assert queue.waiting == 0


def test_without_aging_low_priority_waits_for_ever() -> None:
    queue = PriorityQueue()
    queue.push(make_job(priority=Priority.LOW, created_at=-1e9))
    fresh = make_job(priority=Priority.NORMAL, created_at=time.time())
    queue.push(fresh)
    assert queue.pop_nowait() is fresh


def test_aging_lifts_a_job_one_priority_for_each_period_it_waited() -> None:
    now = time.time()
    queue = AgingQueue(100.0, SYSTEM)
    old_low = make_job(priority=Priority.LOW, created_at=now - 250)  # two periods: competes as HIGH
    fresh_high = make_job(priority=Priority.HIGH, created_at=now)
    fresh_normal = make_job(priority=Priority.NORMAL, created_at=now)
    critical = make_job(priority=Priority.CRITICAL, created_at=now)
    for job in (old_low, fresh_high, fresh_normal, critical):
        queue.push(job)
    # A tie goes to the higher original priority.
    assert popped(queue) == [critical, fresh_high, old_low, fresh_normal]


def test_aging_counts_from_when_a_delayed_job_became_due() -> None:
    now = time.time()
    queue = AgingQueue(100.0, SYSTEM)
    just_due = make_job(priority=Priority.LOW, created_at=now - 1e6, due_at=now - 1)
    queue.push_delayed(just_due)
    queue.promote_due(now)
    fresh = make_job(priority=Priority.NORMAL, created_at=now)
    queue.push(fresh)
    assert popped(queue) == [fresh, just_due]


def test_an_aged_queue_skips_what_was_withdrawn() -> None:
    queue = AgingQueue(1.0, SYSTEM)
    gone, stays = make_job(), make_job()
    queue.push(gone)
    queue.push(stays)
    queue.withdraw(gone)
    assert popped(queue) == [stays]


def test_delayed_jobs_become_ready_in_order_of_their_due_time() -> None:
    queue = PriorityQueue()
    late, early, equal = make_job(due_at=20.0), make_job(due_at=10.0), make_job(due_at=20.0)
    for job in (late, early, equal):
        queue.push_delayed(job)
    assert (queue.waiting, queue.ready_count, queue.next_due) == (3, 0, 10.0)
    assert queue.pop_nowait() is None
    assert queue.promote_due(9.9) == []
    assert queue.promote_due(20.0) == [early, late, equal]
    assert (queue.waiting, queue.ready_count, queue.next_due) == (3, 3, None)
    assert popped(queue) == [early, late, equal]


def test_withdrawn_jobs_do_not_pile_up() -> None:
    queue = PriorityQueue()
    kept = make_job()
    queue.push(kept)
    for _ in range(10_000):
        job = make_job(priority=Priority.LOW)  # it would never surface behind the kept one
        queue.push(job)
        queue.withdraw(job)
    assert queue.waiting == 1
    assert sum(len(line) for line in queue._lines) < 1_000


def test_the_place_in_line() -> None:
    queue = PriorityQueue()
    low, normal, gone, high, later = (
        make_job(priority=Priority.LOW),
        make_job(),
        make_job(),
        make_job(priority=Priority.HIGH),
        make_job(due_at=1e12),
    )
    for job in (low, normal, gone, high):
        queue.push(job)
    queue.push_delayed(later)
    queue.withdraw(gone)
    assert [queue.position(job) for job in (high, normal, low)] == [1, 2, 3]
    assert queue.position(gone) is None
    assert queue.position(later) is None
    assert list(queue) == [high, normal, low, later]


class QueueModel(RuleBasedStateMachine):
    """The queue against a list that is searched for the least (priority, place)."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PriorityQueue()
        self.ready: list[tuple[int, int, Job]] = []
        self.delayed: list[Job] = []
        self.gone: list[Job] = []
        self.now = 100.0
        self.places = 0

    def _add_ready(self, job: Job) -> None:
        self.places += 1
        self.ready.append((job.priority, self.places, job))

    @rule(priority=st.sampled_from(Priority))
    def push(self, priority: Priority) -> None:
        job = make_job(priority=priority)
        self.queue.push(job)
        self._add_ready(job)

    @rule(priority=st.sampled_from(Priority), delay_s=st.integers(1, 50))
    def push_delayed(self, priority: Priority, delay_s: int) -> None:
        job = make_job(priority=priority, due_at=self.now + delay_s)
        self.queue.push_delayed(job)
        self.delayed.append(job)

    @rule(seconds=st.integers(0, 40))
    def promote(self, seconds: int) -> None:
        self.now += seconds
        due = [job for job in self.delayed if job.due_at <= self.now]
        due.sort(key=lambda job: (job.due_at, job.order))
        assert self.queue.promote_due(self.now) == due
        for job in due:
            self.delayed.remove(job)
            self._add_ready(job)

    @rule()
    def pop(self) -> None:
        expected = min(self.ready, default=None, key=lambda entry: entry[:2])
        assert self.queue.pop_nowait() is (expected[2] if expected else None)
        if expected:
            self.ready.remove(expected)
            self.gone.append(expected[2])

    @precondition(lambda self: self.ready or self.delayed)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        waiting = [*(entry[2] for entry in self.ready), *self.delayed]
        job = data.draw(st.sampled_from(waiting))
        self.queue.withdraw(job)
        self.ready = [entry for entry in self.ready if entry[2] is not job]
        self.delayed = [other for other in self.delayed if other is not job]
        self.gone.append(job)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def push_again(self, data: st.DataObject) -> None:
        """A job that runs again, or one that was cancelled and is retried."""
        job = self.gone.pop(data.draw(st.integers(0, len(self.gone) - 1)))
        self.queue.push(job)
        self._add_ready(job)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.waiting == len(self.ready) + len(self.delayed)
        assert self.queue.ready_count == len(self.ready)
        assert self.queue.next_due == min((job.due_at for job in self.delayed), default=None)

    @invariant()
    def iteration_agrees(self) -> None:
        ready = [entry[2] for entry in sorted(self.ready, key=lambda entry: entry[:2])]
        delayed = sorted(self.delayed, key=lambda job: (job.due_at, job.order))
        assert list(self.queue) == ready + delayed


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = hypothesis_settings(max_examples=60, stateful_step_count=40)
