"""Apply an Outcome: the one exit of every attempt and of every job that ends without one.

The finisher decides what an outcome means, has it recorded, and then shows it. It never runs a
task's code. Whatever raises on that way, in a store, an encoder or a subscriber, the job reaches an
end all the same, which says so.
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
from worker_runtime.model.bounded import Unencodable, encode_value, error_text, one_line
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
_ERROR_BYTES_MAX = 1000


class _Mark:
    """A decision about a job that is being recorded, and who waits until it is shown: they are told
    what kept it from being recorded, or None."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[Exception | None]] = []

    def wait(self) -> asyncio.Future[Exception | None]:
        shown: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.waiters.append(shown)
        return shown

    def tell(self, error: Exception | None) -> None:
        try:
            self._tell(error)
        except BaseException:  # of one of them: those that are left must not wait for ever
            self._tell(error)

    def _tell(self, error: Exception | None) -> None:
        for shown in self.waiters:
            if not shown.done():
                shown.set_result(error)


class Finisher:
    """Decides, records, publishes: in that order, so that nobody sees what could still be lost.

    Guarantees: a job whose outcome was applied ends or waits again, and who waits for it is told,
    also where something on the way raises: then it fails as `OutcomeLost`.

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
        self._in_transition: dict[str, _Mark] = {}
        self.interrupted_count = 0

    def apply(
        self, job: Job, outcome: Outcome, now: float, duration_s: float | None = None
    ) -> None:
        """Bring `job` to the state that `outcome` leads to, at `now` (Unix seconds); `duration_s`
        of the attempt, if there was one. Never raises."""
        try:
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
                if value is not None:
                    job.result = value if type(value) in ATOMS else private_copy(value)
                job.state = COMPLETED
                job.ended_at = now
                tally.completed += 1
                self._table.retire(job, task.result_ttl_s if job.options is None else ttl_of(job))
                if self._subscriptions:
                    self._events.emit(job, now)
            elif outcome.kind is not OutcomeKind.REFUSED:
                self._record(job, self._decide(job, outcome, now))
            elif not job.is_ended:
                self._refuse(job, now)
        except BaseException as error:
            self._fail_instead(job, error)

    def revive(self, job: Job) -> None:
        """Queue an ended job again, with a fresh budget of tries and crashes. Raises what keeps the
        store from recording that; then the job stays as it was."""
        try:
            self._record(job, revival(job, self._wall()))
        except BaseException:
            self._unmark(job)
            raise

    def is_in_transition(self, job: Job) -> bool:
        """Whether a decision about `job` is being recorded and not yet shown."""
        return job.id in self._in_transition

    def is_returning(self, job: Job) -> bool:
        """Whether an ended job is going to run again, and is not yet shown so."""
        return job.is_ended and job.id in self._in_transition

    async def wait_shown(self, job: Job) -> Exception | None:
        """Wait until the decision about `job` that is being recorded is shown. Returns why it could
        not be recorded, if so; the job is as it was before, or has failed of that."""
        mark = self._in_transition.get(job.id)
        return None if mark is None else await mark.wait()

    @property
    def is_recording(self) -> bool:
        """Whether any decision is being recorded and not yet shown."""
        return bool(self._in_transition)

    async def wait_all_shown(self) -> None:
        """Wait until every decision that is being recorded now is shown."""
        all_shown = [mark.wait() for mark in self._in_transition.values()]
        if all_shown:
            await asyncio.wait(all_shown)

    def _record(self, job: Job, transition: Transition) -> None:
        if self._recorder is None:
            self._publish(job, transition)
        else:
            mark = self._in_transition[job.id] = _Mark()
            then = functools.partial(self._publish_recorded, job, transition, mark)
            self._recorder.record_transition(job, transition, then)

    def _unmark(self, job: Job) -> None:
        mark = self._in_transition.pop(job.id, None)
        if mark is not None:
            mark.tell(None)

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
        self,
        job: Job,
        transition: Transition,
        mark: _Mark,
        *,
        superseded: bool = False,
        error: Exception | None = None,
    ) -> None:
        try:
            if self._in_transition.get(job.id) is not mark:
                return  # it was shown, or the record of something else has taken its place
            is_revival = job.is_ended and transition.state not in TERMINAL_STATES
            if error is not None and not is_revival:
                raise error
            del self._in_transition[job.id]
            try:
                if superseded:
                    job.state = QUEUED
                    self._requeue(job)
                elif error is None:
                    if is_revival:  # its time may have passed meanwhile
                        self._table.adopt(job)
                    self._publish(job, transition)
            finally:
                mark.tell(error)
        except BaseException as fault:
            self._fail_instead(job, fault)

    def _publish(self, job: Job, transition: Transition) -> None:
        state = transition.state
        job.state = state
        if state in TERMINAL_STATES:
            job.attempt = transition.attempt
            job.crashes = transition.crashes
            job.ended_at = transition.at
            job.result = transition.value
            job.failure = transition.failure
            _count(job)
            self._table.retire(job, ttl_of(job))
            if self._events.subscriptions:
                self._events.emit(job, transition.at)
            _log_end(job)
        else:
            self._put_back(job, transition)

    def _put_back(self, job: Job, transition: Transition) -> None:
        if transition.failure is not None:
            activity = job.activity_made()
            activity.attempts = with_ended_attempt(activity.attempts, job, transition)
            _log_retry(job, transition.failure)
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

    def _refuse(self, job: Job, now: float) -> None:
        """End the record of a job that was never accepted: somebody may have found it meanwhile."""
        job.state = CANCELLED
        job.ended_at = now
        job.failure = Failure(None, "JobCancelled", "it was not accepted")
        self._tell_all(job, self._table.forget, self._table.wake)

    # Where something raises

    def _fail_instead(self, job: Job, error: BaseException) -> None:
        """End a job on whose way `error` was raised, however far it had come and whatever else
        raises now. An end that was shown stays."""
        try:
            _log(logging.ERROR, "job %s: its outcome could not be applied", job.id, error=error)
            if job.is_ended and job.state in TERMINAL_STATES:
                self._tell_all(job, self._table.settle)
                return
            transition = self._lost(job, error)
            if self._recorder is None:
                self._end_here(job, transition)
                return
            mark = self._in_transition.get(job.id)
            if mark is None:
                mark = self._in_transition[job.id] = _Mark()
            then = functools.partial(self._publish_lost, job, transition, mark)
            self._recorder.record_transition(job, transition, then)
        except BaseException as fault:
            _log(logging.ERROR, "job %s: its end is not recorded", job.id, error=fault)
            self._end_here(job, self._lost(job, error))

    def _publish_lost(
        self,
        job: Job,
        transition: Transition,
        mark: _Mark,
        *,
        superseded: bool = False,
        error: Exception | None = None,
    ) -> None:
        """The same as `_publish_recorded` for an end that takes another's place: the last one."""
        if error is None:
            self._publish_recorded(job, transition, mark, superseded=superseded)
        elif self._in_transition.get(job.id) is mark:
            _log(logging.ERROR, "job %s: its end is not recorded", job.id, error=error)
            self._end_here(job, transition)

    def _lost(self, job: Job, error: BaseException) -> Transition:
        text = f"its outcome could not be applied: {type(error).__name__}"
        words = error_text(error, _ERROR_BYTES_MAX)
        failure = Failure(Reason.ERROR, "OutcomeLost", f"{text}: {words}" if words else text)
        return Transition(FAILED, self._wall(), None, failure, 0.0, job.attempt, job.crashes)

    def _end_here(self, job: Job, transition: Transition) -> None:
        """Show an end without its record: nothing else is left to be done for who waits."""
        job.state = FAILED
        job.ended_at = transition.at
        job.result = None
        job.failure = transition.failure
        _count(job)
        self._tell_all(job, self._table.settle)

    def _tell_all(self, job: Job, *first: Callable[[Job], None]) -> None:
        """Do what may be left to do about a job that has ended, all that can be."""
        for do in (*first, self._unmark, self._tell):
            try:
                do(job)
            except BaseException as error:
                _log(logging.ERROR, "job %s has ended, and not all is told", job.id, error=error)

    def _tell(self, job: Job) -> None:
        if self._events.subscriptions:
            self._events.emit(job, job.ended_at or self._wall())


def _waiting(
    job: Job, now: float, delay_s: float, *, attempt: int, failure: Failure | None
) -> Transition:
    state = SCHEDULED if delay_s > 0 else QUEUED
    due_at = now + delay_s if delay_s > 0 else job.due_at
    return Transition(state, now, None, failure, due_at, attempt, job.crashes)


def _count(job: Job) -> None:
    tally = job.task.tally
    if job.state is COMPLETED:
        tally.completed += 1
    elif job.state is CANCELLED:
        tally.cancelled += 1
    elif job.failure is not None and job.failure.reason is not None:
        tally.failed[job.failure.reason] += 1


def _log(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    """A log line that keeps no job from its end, whatever a handler raises."""
    try:
        logger.log(level, text, *args, exc_info=error)
    except Exception:
        pass


def _log_end(job: Job) -> None:
    failure = job.failure
    if job.state is CANCELLED:
        _log(logging.INFO, "job %s (%s) cancelled", job.id, job.task.name)
    elif failure is not None and failure.reason is not None:
        _log(
            logging.WARNING,
            "job %s (%s) failed, %s: %s: %s%s",
            job.id,
            job.task.name,
            failure.reason,
            failure.error_type,
            one_line(failure.error),
            f"\n{failure.traceback}" if failure.traceback else "",
        )


def _log_retry(job: Job, failure: Failure) -> None:
    _log(
        logging.INFO,
        "job %s (%s) attempt %d failed, %s: %s; runs again",
        job.id,
        job.task.name,
        job.attempt,
        failure.error_type,
        one_line(failure.error),
    )
