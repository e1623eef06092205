"""Queues under limits against a list that is searched: what may start, what does, who is woken."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.clocks import StillClock
from tests.support.jobs import make_job
from worker_runtime import Limit, Priority, task
from worker_runtime.engine.lines.limits import LimitedQueue, Limits
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.definition import TaskDefinition, define
from worker_runtime.model.tasks.options import JobOptions

QUEUES = ("default", "other")
KEYS = (None, "a", "b", "c")
# Powers of two, so that no sum of times is rounded.
LIMITS = st.none() | st.builds(
    lambda concurrency, rate, per_s, burst: Limit(
        concurrency if concurrency or rate else 1,
        rate,
        per_s,
        None if not burst or not rate else min(burst, rate),
    ),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, 1, 2, 4]),
    st.sampled_from([4.0, 8.0]),
    st.sampled_from([None, 1, 2]),
)

Scope = tuple[str, str, str | None]
LineKey = tuple[str, int, str, str | None]


def definition(name: str, limit: Limit | None, per_key: Limit | None) -> TaskDefinition:
    @task(name=name, limit=limit, per_key=per_key)
    async def work() -> None: ...

    return define(work)


class LimitsModel(RuleBasedStateMachine):
    @initialize(whole=LIMITS, of_keys=LIMITS, task_whole=LIMITS, task_keys=LIMITS)
    def begin(
        self,
        whole: Limit | None,
        of_keys: Limit | None,
        task_whole: Limit | None,
        task_keys: Limit | None,
    ) -> None:
        self.clock = StillClock(0.0)
        self.of_queues = {"default": (whole, of_keys)}
        self.limits = Limits(self.of_queues, self.clock)
        self.queues = {name: LimitedQueue(self.limits, name) for name in QUEUES}
        self.tasks = [
            definition("free", None, None),
            definition("limited", task_whole, task_keys),
            definition("mixed", None, task_keys),
        ]
        self.ready: list[Job] = []
        self.delayed: list[Job] = []
        self.gone: list[Job] = []
        self.running: dict[str, Job] = {}
        self.pending: set[str] = set()
        self.starts: dict[Scope, list[float]] = defaultdict(list)
        self.since: dict[LineKey, int] = {}
        self.withdrawn_from: set[LineKey] = set()
        self.idle: set[str] = set()
        self.count = 0

    # The reference

    def scopes(self, job: Job) -> list[tuple[Scope, Limit]]:
        key = None if job.options is None else job.options.key
        whole, of_keys = self.of_queues.get(job.queue, (None, None))
        found: list[tuple[Scope, Limit | None]] = [
            (("queue", job.queue, None), whole),
            (("task", job.task.name, None), job.task.limit),
        ]
        if key is not None:
            found.append((("queue", job.queue, key), of_keys))
            found.append((("task", job.task.name, key), job.task.per_key))
        return [(scope, limit) for scope, limit in found if limit is not None]

    def line_of(self, job: Job) -> LineKey:
        key = None if job.options is None else job.options.key
        is_limited = job.task.limit is not None or job.task.per_key is not None
        return (job.queue, job.priority, job.task.name if is_limited else "", key)

    def may_start(self, job: Job) -> bool:
        return all(self.lets_start(scope, limit) for scope, limit in self.scopes(job))

    def lets_start(self, scope: Scope, limit: Limit) -> bool:
        now = self.clock.at
        under = [job for job in self.running.values() if scope in dict(self.scopes(job))]
        if limit.concurrency is not None and len(under) >= limit.concurrency:
            return False
        if limit.rate is None:
            return True
        # Those that have not begun, and this one, as if they began now.
        starts = self.starts[scope] + [now] * (sum(j.id in self.pending for j in under) + 1)
        burst = limit.rate if limit.burst is None else limit.burst
        return self.fits_window(starts, limit) and (
            burst == limit.rate or self.fits_burst(starts, limit, burst)
        )

    def fits_window(self, starts: list[float], limit: Limit) -> bool:
        assert limit.rate is not None
        return all(
            sum(first <= at < first + limit.per_s for at in starts) <= limit.rate
            for first in starts
        )

    def fits_burst(self, starts: list[float], limit: Limit, burst: int) -> bool:
        assert limit.rate is not None
        return all(
            sum(first <= at <= last for at in starts)
            <= burst + (last - first) * limit.rate / limit.per_s
            for first in starts
            for last in starts
            if first <= last
        )

    def heads(self, queue: str) -> dict[LineKey, Job]:
        heads: dict[LineKey, Job] = {}
        for job in self.ready:
            if job.queue == queue:
                heads.setdefault(self.line_of(job), job)
        return heads

    def take_in(self, job: Job) -> None:
        line = self.line_of(job)
        if line not in self.heads(job.queue):
            self.count += 1
            self.since[line] = self.count
        self.ready.append(job)
        self.idle.discard(job.queue)

    # What is done

    @rule(
        queue=st.sampled_from(QUEUES),
        key=st.sampled_from(KEYS),
        number=st.integers(0, 2),
        priority=st.sampled_from([Priority.HIGH, Priority.NORMAL]),
        delay_s=st.sampled_from([0, 0, 0, 3]),
    )
    def push(
        self, queue: str, key: str | None, number: int, priority: Priority, delay_s: int
    ) -> None:
        options = None if key is None else JobOptions(key=key)
        job = make_job(priority=priority, options=options, due_at=self.clock.at + delay_s)
        job.queue, job.task = queue, self.tasks[number]
        if delay_s:
            self.queues[queue].push_delayed(job)
            self.delayed.append(job)
        else:
            self.queues[queue].push(job)
            self.take_in(job)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def push_again(self, data: st.DataObject) -> None:
        job = self.gone.pop(data.draw(st.integers(0, len(self.gone) - 1)))
        self.queues[job.queue].push(job)
        self.take_in(job)

    @precondition(lambda self: self.ready or self.delayed)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([*self.ready, *self.delayed]))
        self.queues[job.queue].withdraw(job)
        self.ready = [other for other in self.ready if other is not job]
        self.delayed = [other for other in self.delayed if other is not job]
        self.withdrawn_from.add(self.line_of(job))
        self.gone.append(job)

    @rule(queue=st.sampled_from(QUEUES), is_begun=st.booleans())
    def pop(self, queue: str, is_begun: bool) -> None:
        self.limits.open_due()
        line = self.queues[queue]
        is_woken = line in self.limits.opened or queue not in self.idle
        self.limits.opened.pop(line, None)
        ready = {key: job for key, job in self.heads(queue).items() if self.may_start(job)}
        job = line.pop_nowait()
        if not ready:
            assert job is None
            self.idle.add(queue)
            return
        assert is_woken, "it may start, and nobody would look"
        assert job is not None
        key = self.line_of(job)
        assert ready.get(key) is job
        first = min(priority for _, priority, _, _ in ready)
        assert job.priority == first
        rivals = [k for k in ready if k[1] == first and k not in self.withdrawn_from]
        if key in rivals:
            assert self.since[key] == min(self.since[rival] for rival in rivals)
        self.count += 1
        self.since[key] = self.count
        self.ready.remove(job)
        self.running[job.id] = job
        self.pending.add(job.id)
        if is_begun:
            self.call(job)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def begin_one(self, data: st.DataObject) -> None:
        self.call(self.running[data.draw(st.sampled_from(sorted(self.pending)))])

    def call(self, job: Job) -> None:
        self.queues[job.queue].began(job)
        self.pending.remove(job.id)
        for scope, limit in self.scopes(job):
            if limit.rate is not None:
                self.starts[scope].append(self.clock.at)
                assert self.fits_window(self.starts[scope], limit)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        job = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self.queues[job.queue].release(job)
        self.pending.discard(job.id)
        self.gone.append(job)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0, 9.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.at += seconds
        for name, queue in self.queues.items():
            due = [j for j in self.delayed if j.queue == name and j.due_at <= self.clock.at]
            due.sort(key=lambda job: (job.due_at, job.order))
            assert queue.promote_due(self.clock.at) == due
            for job in due:
                self.delayed.remove(job)
                self.take_in(job)

    # What holds

    @invariant()
    def counts_agree(self) -> None:
        for name, queue in getattr(self, "queues", {}).items():
            ready = [job for job in self.ready if job.queue == name]
            delayed = [job for job in self.delayed if job.queue == name]
            assert queue.waiting == len(ready) + len(delayed)
            assert queue.ready_count == len(ready)
            assert set(_ids(queue)) == set(_ids([*ready, *delayed]))
            for job in ready[:1] + ready[-1:]:
                line = [j for j in ready if self.line_of(j) == self.line_of(job)]
                assert queue.position(job) == line.index(job) + 1


def _ids(jobs: Any) -> list[str]:
    return [job.id for job in jobs]


TestLimitsModel = LimitsModel.TestCase
TestLimitsModel.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=50, deadline=None
)
