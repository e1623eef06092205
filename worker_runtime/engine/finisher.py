"""Apply an Outcome: the one exit of every attempt and of every job that ends without one.

The finisher decides what an outcome means, has it recorded, and then shows it. It never runs a
task's code.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from bisect import bisect_left
from collections.abc import Callable

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.engine.events import EventHub
from worker_runtime.engine.table import JobTable
from worker_runtime.model.activity import Failure
from worker_runtime.model.bounded import Unencodable, encode_value, one_line
from worker_runtime.model.job import Job, retry_of, ttl_of
from worker_runtime.model.outcome import (
    Outcome,
    OutcomeKind,
    Transition,
    revival,
    with_ended_attempt,
)
from worker_runtime.model.states import (
    CANCELLED,
    COMPLETED,
    FAILED,
    QUEUED,
    SCHEDULED,
    TERMINAL_STATES,
    Reason,
    StopReason,
)
from worker_runtime.model.tasks.crash_rule import reason_to_fail
from worker_runtime.model.tasks.tally import DURATION_BUCKETS_S
from worker_runtime.model.values.copying import ATOMS, private_copy
from worker_runtime.stores.boundary import Recorder

logger = logging.getLogger("worker_runtime.jobs")

RETURNED = OutcomeKind.RETURNED
SHORTEST_BUCKET_S = DURATION_BUCKETS_S[0]


class Finisher:
    """Decides, records, publishes: in that order, so that nobody sees what could still be lost.

    fleet_counts_tries  who hands jobs out does: a wish to be run again is always granted
    """

    def __init__(
        self,
        table: JobTable,
        events: EventHub,
        clock: Clock,
        *,
        recorder: Recorder | None,
        outlives_process: bool,
        requeue: Callable[[Job], None],
        crashes_max: int,
        result_bytes_max: int,
        must_encode: bool,
        fleet_counts_tries: bool = False,
    ) -> None:
        self._table = table
        self._events = events
        self._wall = clock.wall
        self._subscriptions = events.subscriptions
        self._recorder = recorder
        self._outlives_process = outlives_process
        self._requeue = requeue
        self._crashes_max = crashes_max
        self._result_bytes_max = result_bytes_max
        self._must_encode = must_encode
        self._fleet_counts_tries = fleet_counts_tries
        self._in_transition: dict[str, list[asyncio.Future[None]]] = {}
        self.interrupted_count = 0

    def apply(
        self, job: Job, outcome: Outcome, now: float, duration_s: float | None = None
    ) -> None:
        """Bring `job` to the state that `outcome` leads to, at `now` (Unix seconds); `duration_s`
        of the attempt, if there was one."""
        task = job.task
        tally = task.tally
        if duration_s is not None:
            if duration_s <= SHORTEST_BUCKET_S:
                tally.durations[0] += 1
            else:
                tally.durations[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
            tally.seconds += duration_s
        value = outcome.value
        if (
            outcome.kind is RETURNED
            and self._recorder is None
            and (value is None or not job.must_encode)
        ):
            # The usual end, without a Transition: there is nothing to decide or to record.
            job.state = COMPLETED
            job.ended_at = now
            if value is not None:
                job.result = value if type(value) in ATOMS else private_copy(value)
            tally.completed += 1
            self._table.retire(job, task.result_ttl_s if job.options is None else ttl_of(job))
            if self._subscriptions:
                self._events.emit(job, now)
        elif outcome.kind is not OutcomeKind.REFUSED:
            self._record(job, self._decide(job, outcome, now))

    def revive(self, job: Job) -> None:
        """Queue an ended job again, with a fresh budget of tries and crashes."""
        self._record(job, revival(job, self._wall()))

    def is_in_transition(self, job: Job) -> bool:
        """Whether a decision about `job` is being recorded and not yet shown."""
        return job.id in self._in_transition

    def is_returning(self, job: Job) -> bool:
        """Whether an ended job is going to run again, and is not yet shown so."""
        return job.is_ended and job.id in self._in_transition

    async def wait_shown(self, job: Job) -> None:
        """Wait until the decision about `job` that is being recorded is shown."""
        waiters = self._in_transition.get(job.id)
        if waiters is not None:
            shown = asyncio.get_running_loop().create_future()
            waiters.append(shown)
            await shown

    @property
    def is_recording(self) -> bool:
        """Whether any decision is being recorded and not yet shown."""
        return bool(self._in_transition)

    async def wait_all_shown(self) -> None:
        """Wait until every decision that is being recorded now is shown."""
        all_shown = []
        for waiters in self._in_transition.values():
            shown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiters.append(shown)
            all_shown.append(shown)
        if all_shown:
            await asyncio.wait(all_shown)

    def _record(self, job: Job, transition: Transition) -> None:
        if self._recorder is None:
            self._publish(job, transition)
        else:
            self._in_transition[job.id] = []
            then = functools.partial(self._publish_recorded, job, transition)
            self._recorder.record_transition(job, transition, then)

    def _decide(self, job: Job, outcome: Outcome, now: float) -> Transition:
        if outcome.kind is RETURNED:
            return self._completed(job, outcome, now)
        if outcome.kind is OutcomeKind.RUN_AGAIN:
            return self._asked_again(job, outcome, now)
        failure = outcome.failure
        assert failure is not None, "only a returned value comes without a failure"
        if outcome.stopped_by is StopReason.CANCEL:
            return Transition(CANCELLED, now, None, failure, 0.0, job.attempt, job.crashes)
        if outcome.stopped_by is StopReason.SHUTDOWN:
            return self._interrupted(job, failure, now)
        if failure.reason is Reason.CRASHED:
            return self._crashed(job, outcome, failure, now)
        tries = job.attempt - job.crashes
        retry = retry_of(job)
        if outcome.retryable and tries < retry.max_attempts:
            return _waiting(job, now, retry.wait_s(tries), attempt=job.attempt, failure=failure)
        return Transition(FAILED, now, None, failure, 0.0, job.attempt, job.crashes)

    def _asked_again(self, job: Job, outcome: Outcome, now: float) -> Transition:
        if not outcome.uses_attempt:
            return _waiting(job, now, outcome.again_s, attempt=job.attempt - 1, failure=None)
        tries_max = retry_of(job).max_attempts
        if self._fleet_counts_tries or job.attempt - job.crashes < tries_max:
            return _waiting(job, now, outcome.again_s, attempt=job.attempt, failure=None)
        text = f"asked to be run again, and has used up its tries: {tries_max}"
        failure = Failure(Reason.ERROR, "RunAgain", text)
        return Transition(FAILED, now, None, failure, 0.0, job.attempt, job.crashes)

    def _completed(self, job: Job, outcome: Outcome, now: float) -> Transition:
        encoded, value = None, outcome.value
        if type(value) not in ATOMS:  # the task may go on with what it has returned
            value = private_copy(value)
        if self._must_encode or job.must_encode:
            try:
                encoded = encode_value(value, self._result_bytes_max)
            except Unencodable as error:
                failure = Failure(Reason.UNENCODABLE, "Unencodable", f"the result {error}")
                return Transition(FAILED, now, None, failure, 0.0, job.attempt, job.crashes)
        return Transition(COMPLETED, now, value, None, 0.0, job.attempt, job.crashes, encoded)

    def _interrupted(self, job: Job, failure: Failure, now: float) -> Transition:
        self.interrupted_count += 1
        if (
            not self._outlives_process
        ):  # nothing outlives this process: the job ends here, and says so
            cancelled = msgspec.structs.replace(failure, reason=None)
            return Transition(CANCELLED, now, None, cancelled, 0.0, job.attempt, job.crashes)
        return _waiting(job, now, 0.0, attempt=job.attempt - 1, failure=None)

    def _crashed(self, job: Job, outcome: Outcome, failure: Failure, now: float) -> Transition:
        crashes = job.crashes + 1
        reason = reason_to_fail(job.task.on_crash, crashes, self._crashes_max)
        if outcome.retryable and reason is None:
            again = _waiting(job, now, 0.0, attempt=job.attempt, failure=failure)
            return msgspec.structs.replace(again, crashes=crashes)
        return Transition(FAILED, now, None, failure, 0.0, job.attempt, crashes)

    def _publish_recorded(
        self, job: Job, transition: Transition, *, superseded: bool = False
    ) -> None:
        waiters = self._in_transition.pop(job.id, ())
        if superseded:
            job.state = QUEUED
            self._requeue(job)
        else:
            self._publish(job, transition)
        for shown in waiters:
            if not shown.done():
                shown.set_result(None)

    def _publish(self, job: Job, transition: Transition) -> None:
        state = transition.state
        job.state = state
        if state in TERMINAL_STATES:
            job.attempt = transition.attempt
            job.crashes = transition.crashes
            job.ended_at = transition.at
            job.result = transition.value
            job.failure = transition.failure
            self._count(job)
            self._table.retire(job, ttl_of(job))
            if self._events.subscriptions:
                self._events.emit(job, transition.at)
        else:
            self._put_back(job, transition)

    def _put_back(self, job: Job, transition: Transition) -> None:
        if transition.failure is not None:
            _remember_attempt(job, transition)
        if job.is_ended:
            self._table.revive(job)
            job.ended_at = job.failure = job.result = None
        if job.activity is not None:
            job.activity.progress = None
        job.attempt = transition.attempt
        job.crashes = transition.crashes
        job.due_at = transition.due_at
        job.started_at = None
        job.task.tally.retried += 1
        self._requeue(job)

    def _count(self, job: Job) -> None:
        tally = job.task.tally
        if job.state is COMPLETED:
            tally.completed += 1
            return
        failure = job.failure
        if job.state is CANCELLED:
            tally.cancelled += 1
            logger.info("job %s (%s) cancelled", job.id, job.task.name)
        elif failure is not None and failure.reason is not None:
            tally.failed[failure.reason] += 1
            logger.warning(
                "job %s (%s) failed, %s: %s: %s%s",
                job.id,
                job.task.name,
                failure.reason,
                failure.error_type,
                one_line(failure.error),
                f"\n{failure.traceback}" if failure.traceback else "",
            )


def _waiting(
    job: Job, now: float, delay_s: float, *, attempt: int, failure: Failure | None
) -> Transition:
    state = SCHEDULED if delay_s > 0 else QUEUED
    due_at = now + delay_s if delay_s > 0 else job.due_at
    return Transition(state, now, None, failure, due_at, attempt, job.crashes)


def _remember_attempt(job: Job, transition: Transition) -> None:
    activity = job.activity_made()
    activity.attempts = with_ended_attempt(activity.attempts, job, transition)
    failure = transition.failure
    assert failure is not None
    logger.info(
        "job %s (%s) attempt %d failed, %s: %s; runs again",
        job.id,
        job.task.name,
        job.attempt,
        failure.error_type,
        one_line(failure.error),
    )
