"""While a slot is free and a job is due, start an attempt.

Slots are resident: an asyncio task that attempts one job after another, because a task per job
costs twice as much (docs/decisions/0002-resident-slots.md). A job must not notice. So a slot ends,
and another takes its place, when its job left context variables changed or a cancel pending.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator, Mapping
from contextvars import copy_context
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.engine.attempt import Attempts
from worker_runtime.engine.deadlines import DeadlineTimer
from worker_runtime.engine.events import EventHub
from worker_runtime.engine.expiry import Expiry
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.limit_timer import LimitTimer
from worker_runtime.engine.lines.limits import LimitedQueue, Limits, key_of
from worker_runtime.engine.slots import Lane, Slot
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome, OutcomeKind
from worker_runtime.model.states import QUEUED, RUNNING, SCHEDULED, Reason, StopReason

logger = logging.getLogger("worker_runtime.dispatcher")

# The wall clock may be set while a timer sleeps; looking again bounds how late a job starts.
_TIMER_MAX_S = 30.0
_LOOK_AGAIN_S = 1.0


class Dispatcher:
    """Hands due jobs to slots.

    Guarantees: never more than a lane's `concurrency` attempts at a time (abandoned ones, which
    cannot be ended, at most `abandoned_max` besides); a withdrawn or expired job is never started.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        attempts: Attempts,
        finisher: Finisher,
        events: EventHub,
        expiry: Expiry,
        limits: Limits,
        clock: Clock,
        *,
        abandoned_max: int,
    ) -> None:
        self.lanes = lanes
        self._attempts = attempts
        self._finisher = finisher
        self._events = events
        self._expiry = expiry
        self._limits = limits
        self._limit_timer = LimitTimer(limits, self._wake_queue, clock)
        self._subscriptions = events.subscriptions
        self._clock = clock
        # Where it counts they are called from a local name: an attribute that is called and is no
        # method of its class is looked up the long way, also by an interpreter that has seen it.
        self._wall, self._monotonic = clock.wall, clock.monotonic
        self._abandoned_max = abandoned_max
        self._abandoned: dict[Slot, bool] = {}  # whether its place was given to another
        self._context = copy_context()
        self._watch = DeadlineTimer(self.running, self._expire, clock)
        self._is_quiet = False
        self._ended = asyncio.Event()

    def submit(self, job: Job) -> None:
        """Put a job in its lane's queue: a new one, or one that is to run again."""
        lane = self.lanes[job.queue]
        is_due = not job.due_at or job.due_at <= self._wall()
        job.state = QUEUED if is_due else SCHEDULED
        if self._events.subscriptions:
            self._events.emit(job, self._clock.unix())
        if job.options is not None or job.task.is_limited:
            self.prepare(lane, job)
        if is_due:
            lane.queue.push(job)
        else:
            lane.queue.push_delayed(job)
        try:  # from here on it is in its line
            if is_due:
                self.wake(lane)
            else:
                self._set_timer(lane)
        except BaseException as error:
            self._look_again(lane, error)

    def prepare(self, lane: Lane, job: Job) -> None:
        """What there is to do before `job` waits in the lane, where it is limited or has options of
        its own; comes before the push."""
        self._expiry.watch(job, self.withdraw)
        if lane.limited is None and (job.task.is_limited or key_of(job) is not None):
            lane.limit(self._limits)

    def withdraw(self, job: Job) -> bool:
        """Take a job out of its queue; False where it has started already."""
        if job.state is RUNNING:
            return False
        self.lanes[job.queue].queue.withdraw(job)
        if job.options is not None:
            self._expiry.forget(job)
        self._ended.set()
        return True

    def refuse(self, job: Job, *, is_held: bool) -> None:
        """End the record of a job that was never accepted. `is_held`: it is in no queue."""
        # One that is in transition was cancelled, and so taken out of its queue.
        if not is_held and not self._finisher.is_in_transition(job):
            self.withdraw(job)
        self._finisher.apply(job, Outcome(OutcomeKind.REFUSED), self._wall())
        self.tell_ended()

    def wake(self, lane: Lane) -> None:
        """Start attempts while the lane has a free slot and a job is due. Never raises."""
        monotonic = self._monotonic
        job = None
        try:
            while lane.busy < lane.concurrency and (job := self._next(lane)) is not None:
                lane.busy += 1
                if lane.idle:
                    slot = lane.idle.pop()
                    self._occupy(slot, job, monotonic())
                    lane.running.add(slot)
                    wakeup = lane.wakeups.pop(slot)
                    if not wakeup.done():  # a runner that somebody cancelled has woken by itself
                        wakeup.set_result(None)
                else:
                    self._open_slot(lane, job)
                job = None
        except BaseException as error:
            self._not_started(lane, job, error)

    def running(self) -> Iterator[Slot]:
        """The slots with a running attempt that is not given up."""
        for lane in self.lanes.values():
            yield from lane.running

    def slot_of(self, job: Job) -> Slot | None:
        return next((s for s in self.lanes[job.queue].running if s.job is job), None)

    def job_of_task(self, runner: asyncio.Task[Any]) -> Job | None:
        """The job that an asyncio task attempts now. Safe from another thread: it only reads."""
        found = (s for s in list(self.running()) if s.runner is runner)
        return next((getattr(slot, "job", None) for slot in found), None)  # it may rest by now

    def request_stop(self, job: Job, message: str = "") -> bool:
        """Tell a running job to end as cancelled; False where it is not running."""
        slot = self.slot_of(job)
        if slot is None:
            return False
        slot.request_stop(StopReason.CANCEL, message)
        return True

    def quiet(self) -> None:
        """Start nothing more. What runs goes on; what waits keeps waiting."""
        self._is_quiet = True

    @property
    def is_quiet(self) -> bool:
        return self._is_quiet

    async def wait_ended(self) -> None:
        """Wait until an attempt ends, or a waiting job is withdrawn, after this call."""
        self._ended.clear()
        await self._ended.wait()

    async def close(self) -> None:
        """End what rests in the lanes. Assumes that nothing runs that is not given up."""
        self._watch.close()
        self._expiry.close()
        self._limit_timer.close()
        resting: list[asyncio.Task[None]] = []
        for lane in self.lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()
            for slot, wakeup in lane.wakeups.items():
                wakeup.cancel()
                if slot.runner is not None:
                    resting.append(slot.runner)
            lane.idle.clear()
            lane.wakeups.clear()
        resting.extend(runner for slot in list(self._abandoned) if (runner := _closed(slot)))
        if resting:
            await asyncio.wait(resting, timeout=1.0)

    def _next(self, lane: Lane) -> Job | None:
        """The job that the lane starts now, if it may start any."""
        if not lane.queue.waiting or lane.is_paused or self._is_quiet:
            return None
        while (job := lane.queue.pop_nowait()) is not None:
            if job.options is None:
                return job
            expires_at = job.options.expires_at
            if expires_at is None or self._expiry.begin(job, expires_at):
                return job
            if lane.limited is not None:
                lane.limited.release(job)
            self.tell_ended()
        if lane.limited is not None:
            self._limit_timer.look()
        return None

    def _not_started(self, lane: Lane, job: Job | None, error: BaseException) -> None:
        """What was taken out of its queue and could not be put into a slot fails, and its place is
        free again; None: nothing was taken out."""
        if job is not None:
            lane.busy -= 1
            for slot in [slot for slot in lane.running if slot.job is job]:
                lane.running.discard(slot)
                slot.is_occupied = False
                slot.interrupt()
            text = f"its attempt could not be started: {type(error).__name__}"
            failure = Failure(Reason.ERROR, "RuntimeError", text)
            self._finisher.apply(job, Outcome(OutcomeKind.RAISED, failure=failure), self._wall())
        self._look_again(lane, error)

    def _look_again(self, lane: Lane, error: BaseException) -> None:
        """Something went wrong where jobs of the lane were to be started: try it again later."""
        logger.error("queue %s: jobs could not be started", lane.name, exc_info=error)
        asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._promote, lane)

    def _release(self, limited: LimitedQueue, job: Job) -> None:
        """Give back what the job's attempt used of its limits, which another queue may wait for."""
        limited.release(job)
        self._limit_timer.look()

    def _began(self, limited: LimitedQueue, job: Job) -> None:
        limited.began(job)
        self._limit_timer.look()

    def _wake_queue(self, name: str) -> None:
        self.wake(self.lanes[name])

    def _open_slot(self, lane: Lane, job: Job) -> None:
        loop = asyncio.get_running_loop()
        slot = Slot(lane, self._watch.arm, self._began, self._clock)
        self._occupy(slot, job, self._monotonic())
        lane.running.add(slot)
        serving = self._serve(lane, slot)
        try:
            slot.runner = loop.create_task(
                serving, name=f"slot:{lane.name}", context=self._context.copy()
            )
        except BaseException:
            serving.close()
            raise
        slot.runner.add_done_callback(functools.partial(self._runner_ended, lane, slot))

    def _runner_ended(self, lane: Lane, slot: Slot, runner: asyncio.Task[None]) -> None:
        """Whatever ended a runner, its job ends too and its place is free again.

        Usually there is nothing left to do. But a job may cancel every task of the loop, also one
        that has not begun; and comparisons of a job's own objects may raise where nobody can help.
        """
        error = None if runner.cancelled() else runner.exception()
        if slot.is_abandoned:
            if not self._abandoned.pop(slot):  # beyond the bound it kept its place until now
                lane.busy -= 1
                self.wake(lane)
            return
        if slot not in lane.running:
            return
        lane.running.discard(slot)
        lane.busy -= 1
        if slot.is_occupied:
            self._finisher.apply(slot.job, self._outcome_without_end(slot, error), self._wall())
            if lane.limited is not None:
                self._release(lane.limited, slot.job)
        elif error is not None:
            logger.error("a slot of queue %s ended", lane.name, exc_info=error)
        self.wake(lane)
        self.tell_ended()

    def _outcome_without_end(self, slot: Slot, error: BaseException | None) -> Outcome:
        if slot.stopped_by is not None:
            return self._attempts.stopped(slot)
        if not slot.is_started:  # its task was never called
            return Outcome(OutcomeKind.RUN_AGAIN)
        text = "its runner ended" if error is None else f"its runner ended: {type(error).__name__}"
        failure = Failure(Reason.ERROR, "RuntimeError", text)
        return Outcome(OutcomeKind.RAISED, failure=failure)

    def _occupy(self, slot: Slot, job: Job, now: float) -> None:
        """Put `job` into the slot at `now` (monotonic): from here on it can be told to stop."""
        slot.job = job
        slot.began_at = now
        slot.deadline = None
        slot.is_occupied = True
        job.state = RUNNING
        job.attempt += 1
        job.started_at = started_at = now + self._clock.offset_s
        if self._subscriptions:
            self._events.emit(job, started_at)

    async def _serve(self, lane: Lane, slot: Slot) -> None:
        """Attempt job after job until the slot is spoilt, given up or closed."""
        slot.remember_context()
        while True:
            await self._attempts.run(slot, self._finished)
            if slot.is_abandoned:
                return
            if slot.is_spoilt:
                self._retire(lane, slot)
                return
            if not await self._wait_for_work(lane, slot):
                return

    def _finished(self, slot: Slot, outcome: Outcome) -> bool:
        """Have the outcome applied, and put the next job into the slot if there is one."""
        if slot.is_abandoned:
            return False
        job = slot.job
        lane = slot.lane
        monotonic = self._monotonic
        now = monotonic()
        slot.is_occupied = False
        self._finisher.apply(job, outcome, now + self._clock.offset_s, now - slot.began_at)
        if lane.limited is not None:
            self._release(lane.limited, job)
        if (  # the job left something behind that the next one would see
            slot.stopped_by is not None
            or (
                slot.has_other_values(copy_context())
                if slot.clean_values
                else copy_context() != slot.clean  # with nothing in it, one comparison of lengths
            )
            or slot.runner.cancelling()  # type: ignore[union-attr]
        ):
            slot.is_spoilt = True
            return False
        if lane.busy > lane.concurrency:  # it was made smaller meanwhile
            return False
        following = self._next(lane)
        if following is None:
            return False
        self._occupy(slot, following, now)
        return True

    def _retire(self, lane: Lane, slot: Slot) -> None:
        lane.running.discard(slot)
        lane.busy -= 1
        self.wake(lane)
        self.tell_ended()

    async def _wait_for_work(self, lane: Lane, slot: Slot) -> bool:
        """Let the slot rest until `wake` gives it a job; False where the lane is closed."""
        lane.busy -= 1
        lane.running.discard(slot)
        slot.is_started = False
        del slot.job
        wakeup = asyncio.get_running_loop().create_future()
        lane.idle.append(slot)
        lane.wakeups[slot] = wakeup
        self.tell_ended()
        try:
            await wakeup
        except asyncio.CancelledError:  # by `close`, or by a job that kept hold of this task
            if slot in lane.wakeups:
                lane.idle.remove(slot)
                del lane.wakeups[slot]
            return False  # a job that was put here at that moment goes to another slot
        return True

    def tell_ended(self) -> None:
        """Have those look again who wait for the end of all work."""
        self._ended.set()

    def _expire(self, slot: Slot) -> None:
        if slot.stopped_by is None:
            slot.request_stop(StopReason.TIMEOUT)
        else:
            self.give_up(slot)

    def give_up(self, slot: Slot) -> None:
        """End the job of an attempt that nothing ends, and replace its slot within the bound."""
        lane = self.lanes[slot.job.queue]
        run_in = slot.job.task.run_in
        note = "abandoned_coroutine" if run_in == "loop" else f"abandoned_{run_in}"
        slot.is_abandoned = True
        slot.deadline = None
        lane.running.discard(slot)
        self._finisher.apply(
            slot.job,
            self._attempts.stopped(slot, note),
            self._clock.unix(),
            self._monotonic() - slot.began_at,
        )
        logger.warning("job %s (%s) ignores its stop: %s", slot.job.id, slot.job.task.name, note)
        if lane.limited is not None:
            self._release(lane.limited, slot.job)
        try:
            slot.job.task.executor.abandon(slot)
        except Exception:
            logger.exception("job %s: what it holds could not be replaced", slot.job.id)
        replaced = len(self._abandoned) < self._abandoned_max
        self._abandoned[slot] = replaced
        if replaced:
            lane.busy -= 1
            self.wake(lane)
        self.tell_ended()

    @property
    def abandoned_count(self) -> int:
        """Attempts that were given up and still hold a coroutine or thread."""
        return len(self._abandoned)

    def _set_timer(self, lane: Lane) -> None:
        due_at = lane.queue.next_due
        if due_at is None:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + min(_TIMER_MAX_S, max(0.0, due_at - self._wall()))
        if lane.timer is not None:
            if lane.timer_at <= at:  # it looks again by then and sets the next
                return
            lane.timer.cancel()
        # uvloop gives a handle without a time where none is left to wait.
        lane.timer_at = at
        lane.timer = loop.call_at(at, self._promote, lane)

    def _promote(self, lane: Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        for job in lane.queue.promote_due(self._wall()):
            job.state = QUEUED
            if self._events.subscriptions:
                self._events.emit(job, self._clock.unix())
        self.wake(lane)
        self._set_timer(lane)


def _closed(slot: Slot) -> asyncio.Task[None] | None:
    """The runner of an abandoned attempt, ended by force; None where even that does not end it.

    Whoever closes the event loop, `asyncio.run` for one, waits for every task that is left.
    """
    runner = slot.runner
    assert runner is not None
    try:
        runner.get_coro().close()
    except Exception as error:  # it goes on waiting in spite of GeneratorExit, or it runs right now
        logger.warning("job %s cannot be ended: %s", slot.job.id, error)
        return None
    runner.cancel()
    return runner
