"""Random operations on a real runtime and on the reference, compared after each.

The tasks of the runtime end only when the machine says so, and no delay passes unless it says so:
every run is reproducible. A subclass may make a runtime with another store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.clocks import SetClock, assembled_with
from tests.whole.simulation import invariants
from tests.whole.simulation.reference import ExpectedJob, Reference
from worker_runtime import (
    Event,
    InvalidTransition,
    JobConflict,
    JobContext,
    Priority,
    QueueFull,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    Subscription,
    call,
)

T = TypeVar("T")

CONCURRENCY = 2
CAPACITY = 4
RETRY_S = 100.0
# No sum of steps comes this near to a sum of delays: a slow machine changes no outcome.
CLOCK_TOLERANCE_S = 10.0
# More turns of the loop than any one operation takes to have all its effects.
TURNS_TO_SETTLE = 12

PRIORITIES = st.sampled_from(Priority)


class World:
    """What the tasks see: who runs, and how the machine wants them to end."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.running: dict[str, asyncio.Future[Any]] = {}

    async def work(self, ctx: JobContext, payload: int) -> Any:
        assert ctx.job_id not in self.running, "two attempts of one job at a time"
        self.started.append((ctx.job_id, ctx.attempt))
        wanted = asyncio.get_running_loop().create_future()
        self.running[ctx.job_id] = wanted
        try:
            answer = await wanted
        finally:
            del self.running[ctx.job_id]
        if isinstance(answer, Exception):
            raise answer
        return payload


class RuntimeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.reference = Reference(CONCURRENCY, CAPACITY, attempts_max=2)
        self.events: list[Event] = []
        self.clock = SetClock(ahead_s=1_000.0)

    def wall_clock(self) -> float:
        """Unix seconds: the real ones, and as many more as the machine has let pass."""
        return self.clock.wall()

    def settings(self) -> Settings:
        return Settings(cancel_grace_s=30)

    def make_runtime(self) -> Runtime:
        return Runtime(
            {"work": self.world.work},
            concurrency=CONCURRENCY,
            queue_capacity=CAPACITY,
            settings=self.settings(),
        )

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run an operation and everything that follows from it, under the machine's clock."""

        async def settled() -> T:
            answer = await operation
            for _ in range(TURNS_TO_SETTLE):
                await asyncio.sleep(0)
            return answer

        with mock.patch("worker_runtime.engine.dispatcher._TIMER_MAX_S", 0.0):
            return self.loop.run_until_complete(asyncio.wait_for(settled(), 20))

    @initialize()
    def open(self) -> None:
        async def start() -> tuple[Runtime, Subscription]:
            with assembled_with(self.clock):
                runtime = self.make_runtime()
            await runtime.start()
            subscription = runtime.subscribe(buffer=100_000)
            await subscription.__aenter__()
            return runtime, subscription

        self.runtime, self.subscription = self.run(start())

    def teardown(self) -> None:
        if hasattr(self, "runtime"):
            self.run(self.runtime.stop(within_s=0))
            self._check_the_end()
        for running in asyncio.all_tasks(self.loop):
            running.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def _check_the_end(self) -> None:
        """In memory every job ends with its runtime: as it had, or cancelled."""
        for job in self.reference.jobs.values():
            if not job.is_ended:
                job.state = State.CANCELLED
        invariants.check_every_job_is_as_expected(self.runtime, self.reference)
        self.collect_events()
        invariants.check_transitions_are_legal(self.events)
        invariants.check_events_end_in_the_states_shown(self.events, self.runtime)
        assert not self.world.running
        (definition,) = self.runtime.tasks
        assert definition.tally.accepted == len(self.reference.jobs)

    def collect_events(self) -> None:
        async def collect() -> None:
            self.subscription.close()
            async for event in self.subscription:
                assert isinstance(event, Event)
                self.events.append(event)

        self.run(collect())

    def pick(self, data: st.DataObject, *states: State) -> ExpectedJob:
        return data.draw(st.sampled_from(self.reference.of_state(*states or tuple(State))))

    def options(self, job_id: str | None, priority: Priority, delay_s: float | None) -> Any:
        retry = Retry(max_attempts=2, delay_s=RETRY_S, jitter=0)
        return self.runtime.options(job_id=job_id, priority=priority, delay_s=delay_s, retry=retry)

    def due_at(self, job_id: str, expected: float) -> float:
        """When the job says it is due, if that is about when it should be."""
        found = self.runtime.parts.table.jobs[job_id].due_at
        assert abs(found - expected) < CLOCK_TOLERANCE_S
        return found

    # Enqueue

    @rule(
        payload=st.integers(0, 3),
        priority=PRIORITIES,
        delay_s=st.sampled_from([None, None, 50.0, 150.0]),
        is_named=st.booleans(),
    )
    def enqueue(
        self, payload: int, priority: Priority, delay_s: float | None, is_named: bool
    ) -> None:
        job_id = f"named-{len(self.reference.jobs)}" if is_named else None
        enqueue = self.options(job_id, priority, delay_s).enqueue("work", payload)
        if not self.reference.has_room(1, is_delayed=delay_s is not None):
            with pytest.raises(QueueFull):
                self.run(enqueue)
            return
        handle = self.run(enqueue)
        assert handle.is_new
        due_at = self.due_at(handle.id, self.wall_clock() + delay_s) if delay_s else 0.0
        self.reference.accept(handle.id, payload, priority, due_at)
        self.reference.start()

    @rule(payload=st.integers(0, 3), count=st.integers(0, 6))
    def enqueue_many(self, payload: int, count: int) -> None:
        calls = [call("work", payload) for _ in range(count)]
        enqueue = self.options(None, Priority.NORMAL, None).enqueue_many(calls)
        if count and not self.reference.has_room(count, is_delayed=False):
            with pytest.raises(QueueFull):
                self.run(enqueue)
            return
        for handle in self.run(enqueue):
            self.reference.accept(handle.id, payload, Priority.NORMAL, 0.0)
            self.reference.start()

    @precondition(lambda self: self.reference.jobs)
    @rule(data=st.data(), is_same=st.booleans())
    def enqueue_known_id(self, data: st.DataObject, is_same: bool) -> None:
        job = self.pick(data)
        payload = job.payload if is_same else job.payload + 1
        enqueue = self.options(job.id, Priority.CRITICAL, None).enqueue("work", payload)
        if is_same:
            assert not self.run(enqueue).is_new
        else:
            with pytest.raises(JobConflict):
                self.run(enqueue)

    # Run

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        job = self._end(data, None)
        self.reference.complete(job)
        self.reference.start()

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        job = self._end(data, ValueError("as the machine wanted"))
        will_retry = job.attempt < self.reference.attempts_max
        due_at = self.due_at(job.id, self.wall_clock() + RETRY_S) if will_retry else 0.0
        self.reference.fail(job, due_at)
        self.reference.start()

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data(), delay_s=st.sampled_from([0.0, 70.0]), uses_attempt=st.booleans())
    def run_again(self, data: st.DataObject, delay_s: float, uses_attempt: bool) -> None:
        job = self._end(data, RunAgain(delay_s, uses_attempt=uses_attempt))
        will_run = not uses_attempt or job.attempt < self.reference.attempts_max
        due_at = self.due_at(job.id, self.wall_clock() + delay_s) if delay_s and will_run else 0.0
        self.reference.run_again(job, due_at, uses_attempt=uses_attempt)
        self.reference.start()

    def _end(self, data: st.DataObject, answer: Exception | None) -> ExpectedJob:
        job = self.pick(data, State.RUNNING)
        wanted = self.world.running[job.id]

        async def end() -> None:
            wanted.set_result(answer)

        self.run(end())
        return job

    @precondition(lambda self: self.reference.running)
    @rule(data=st.data())
    def cancel_while_ending(self, data: st.DataObject) -> None:
        """The cancel comes in the same turn as the task's end: one of them holds, and one alone."""
        job = self.pick(data, State.RUNNING)
        wanted = self.world.running[job.id]

        async def both() -> bool:
            wanted.set_result(None)
            return await self.runtime.cancel(job.id)

        assert self.run(both())
        self.reference.cancel(job)
        self.reference.start()

    # Act

    @precondition(lambda self: self.reference.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.pick(data)
        assert self.run(self.runtime.cancel(job.id)) is not job.is_ended
        if not job.is_ended:
            self.reference.cancel(job)
            self.reference.start()

    @precondition(lambda self: self.reference.jobs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job = self.pick(data)
        retry = self.runtime.retry(job.id)
        if job.state not in (State.FAILED, State.CANCELLED):
            with pytest.raises(InvalidTransition):
                self.run(retry)
        elif not self.reference.has_room(1, is_delayed=False):
            with pytest.raises(QueueFull):
                self.run(retry)
        else:
            self.run(retry)
            self.reference.retry(job)
            self.reference.start()

    @rule()
    def pause(self) -> None:
        self.runtime.pause("default")
        self.reference.is_paused = True

    @rule()
    def resume(self) -> None:
        async def resume() -> None:
            self.runtime.resume("default")

        self.run(resume())
        self.reference.is_paused = False
        self.reference.start()

    @rule(seconds=st.sampled_from([40.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.ahead_s += seconds

        async def adjust() -> None:
            self.clock.adjust()

        self.run(adjust())
        self.reference.promote(self.wall_clock())
        self.reference.start()

    # What holds after each of them

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "runtime"):
            return
        invariants.check_every_job_is_as_expected(self.runtime, self.reference)
        invariants.check_jobs_ran_in_the_predicted_order(
            self.world.started, self.world.running, self.reference
        )
        invariants.check_counts_agree(self.runtime, self.reference)
        invariants.check_bounds_hold(self.runtime)
        invariants.check_results_are_right(self.runtime, self.reference)
        invariants.check_times_are_in_order(self.runtime)
