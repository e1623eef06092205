"""Decide about each claimed job: let it run, leave it to others, or end it without running it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from worker_runtime.acceptance.intake import Intake
from worker_runtime.clock.source import Clock
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.errors import InvalidArguments
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome, OutcomeKind
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.model.states import RUNNING, Reason, StopReason
from worker_runtime.model.tasks.crash_rule import reason_to_fail
from worker_runtime.sharing.watched import WatchedJobs
from worker_runtime.stores.redis.leases import Lease
from worker_runtime.stores.redis.lookup import UNKNOWN_FUNCTION
from worker_runtime.stores.redis.manner import Claimed
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.redis.wire.layout import (
    ForeignError,
    Unreadable,
    WireJob,
    execution_failed,
)

logger = logging.getLogger("worker_runtime.claimer")

UNREADABLE = ForeignError("arq.jobs", "DeserializationError", "unable to deserialize job")


class ClaimedJobs:
    """Turns claims into jobs of this runtime.

    tries_max       the most tries of a task's jobs, where the fleet counts them so; None: the
                    task's own retry policy decides when an attempt has failed
    crashes_max     how often a worker may die with a job
    leaves_unknown  jobs of tasks that this worker does not have are left for others; else they fail
    """

    def __init__(
        self,
        store: RedisStore,
        registry: TaskRegistry,
        table: JobTable,
        watched: WatchedJobs,
        intake: Intake,
        dispatcher: Dispatcher,
        finisher: Finisher,
        clock: Clock,
        *,
        tries_max: Callable[[str], int] | None = None,
        crashes_max: int,
        aborts: bool = True,
        leaves_unknown: bool = True,
    ) -> None:
        self._store = store
        self._registry = registry
        self._table = table
        self._watched = watched
        self._intake = intake
        self._dispatcher = dispatcher
        self._finisher = finisher
        self._wall = clock.wall
        self._tries_max = tries_max
        self._crashes_max = crashes_max
        self._aborts = aborts
        self._leaves_unknown = leaves_unknown
        self._unknown_told: set[str] = set()

    async def admit(self, lane: Lane, claims: Sequence[Claimed]) -> None:
        unknown: list[Claimed] = []
        for claimed in claims:
            found = await self._read(lane, claimed)
            if found is None:
                continue
            if self._is_aborted(claimed, found):
                self._abort_unstarted(lane, claimed, found)
            elif found.function not in self._registry and self._leaves_unknown:
                self._tell_unknown(found.function)
                unknown.append(claimed)
            else:
                await self._start(lane, claimed, found)
        await self._store.release([claimed.lease for claimed in unknown], unknown=True)

    def cancel(self, job: Job, message: str) -> None:
        """Obey an order to abort a job that this process holds."""
        if job.state is RUNNING:
            self._dispatcher.request_stop(job, message)
        elif not self._finisher.is_in_transition(job) and not job.is_ended:
            self._dispatcher.withdraw(job)
            self._finisher.apply(job, _cancelled(message), self._wall())

    async def _read(self, lane: Lane, claimed: Claimed) -> WireJob | None:
        lease = claimed.lease
        if claimed.payload is None:
            logger.warning("job %s expired", lease.job_id)
            self._end(lane, claimed, None, execution_failed("job expired"), Reason.EXPIRED)
            return None
        try:
            found = self._store.records.wire.decode_job(claimed.payload)
        except Unreadable as error:
            reason = f"its payload is refused: {error}"
            logger.error("job %s is parked as a dead letter: %s", lease.job_id, reason)
            await self._store.bury(lease, lane.name, claimed.payload, reason)
            self._end(lane, claimed, None, UNREADABLE, Reason.ERROR, reason)
            return None
        lease.enqueued_ms = found.enqueued_ms
        return found

    def _is_aborted(self, claimed: Claimed, found: WireJob) -> bool:
        asked_ms = claimed.abort_ms
        return self._aborts and asked_ms is not None and asked_ms >= found.enqueued_ms

    def _abort_unstarted(self, lane: Lane, claimed: Claimed, found: WireJob) -> None:
        job = self._bare(lane, claimed, found)
        self._store.manner.ended_early(job, "aborted before start")
        self._table.jobs[job.id] = job
        self._finisher.apply(job, _cancelled("aborted before it started"), self._wall())

    async def _start(self, lane: Lane, claimed: Claimed, found: WireJob) -> None:
        lease = claimed.lease
        if found.function not in self._registry:
            text = f"function {found.function!r} not found"
            logger.warning("job %s, %s", lease.job_id, text)
            self._end(lane, claimed, found, execution_failed(text), Reason.ERROR)
            return
        if found.job_try and found.job_try > lease.tries:
            await self._store.count_tries(lease, found.job_try)
        if self._tries_max is not None:
            tries_max = self._tries_max(found.function)
            if lease.tries > tries_max:
                text = f"max {tries_max} retries exceeded"
                self._end(lane, claimed, found, execution_failed(text), Reason.ERROR)
                return
        elif not self._may_run_after_crash(lane, claimed, found):
            return
        try:
            job = self._job(lane, claimed, found)
        except InvalidArguments as error:
            text = f"task {found.function}: {error}"
            self._end(lane, claimed, found, TypeError(text), Reason.ERROR, text)
            return
        job.has_begun = await self._has_begun(job, lease)
        self._intake.restore(job)

    async def _has_begun(self, job: Job, lease: Lease) -> bool:
        """Whether an attempt of a job with an expiry may have begun before. Asks Redis where the
        tries do not tell."""
        if job.options is None or job.options.expires_at is None:
            return False
        return lease.tries > 1 or await self._store.has_begun(job.id)

    def _job(self, lane: Lane, claimed: Claimed, found: WireJob) -> Job:
        lease = claimed.lease
        task = self._registry.find(found.function)
        job = self._store.records.job(lease.job_id, found, task, lane.name, lease.score)
        job.attempt = lease.tries - 1
        job.crashes = claimed.crashes
        job.priority = claimed.priority
        job.due_at = 0.0
        return self._watched.known(job)

    def _may_run_after_crash(self, lane: Lane, claimed: Claimed, found: WireJob) -> bool:
        if not claimed.crashes:
            return True
        task = self._registry.find(found.function)
        reason = reason_to_fail(task.on_crash, claimed.crashes, self._crashes_max)
        if reason is None:
            return True
        text = "its worker died while it ran"
        if reason is Reason.CRASHED:
            text = f"its worker died with it {claimed.crashes} times"
        job = self._bare(lane, claimed, found)
        job.crashes = max(0, claimed.crashes - (reason is Reason.CRASHED))
        failure = Failure(reason, "WorkerDied", text)
        self._table.jobs[job.id] = job
        self._finisher.apply(job, Outcome(OutcomeKind.RAISED, failure=failure), self._wall())
        return False

    def _end(
        self,
        lane: Lane,
        claimed: Claimed,
        found: WireJob | None,
        error: Any,
        reason: Reason,
        text: str | None = None,
    ) -> None:
        """End a claimed job as failed without running it; `error` goes on the wire."""
        job = self._bare(lane, claimed, found)
        is_foreign = isinstance(error, ForeignError)
        words: str = text or (error.text if is_foreign else str(error))
        name = error.name if is_foreign else type(error).__name__
        self._table.jobs[job.id] = job
        self._store.ends.note_error(job.id, error)
        self._store.manner.ended_early(job, words)
        failure = Failure(reason, name, words)
        self._finisher.apply(job, Outcome(OutcomeKind.RAISED, failure=failure), self._wall())

    def _bare(self, lane: Lane, claimed: Claimed, found: WireJob | None) -> Job:
        lease = claimed.lease
        task = self._registry.find_or_park(UNKNOWN_FUNCTION if found is None else found.function)
        args: tuple[Any, ...] = () if found is None else found.args
        kwargs = None if found is None else found.kwargs
        enqueued_s = lease.enqueued_ms / 1000
        job = Job(lease.job_id, task, args, kwargs, lane.name, claimed.priority, 0, enqueued_s)
        job.attempt = lease.tries
        return self._watched.known(job)

    def _tell_unknown(self, function: str) -> None:
        if function not in self._unknown_told and len(self._unknown_told) < 1000:
            self._unknown_told.add(function)
            logger.warning(
                "jobs for %r are left for other workers: this one has no such function", function
            )


def _cancelled(message: str) -> Outcome:
    failure = Failure(None, "JobCancelled", message)
    return Outcome(OutcomeKind.STOPPED, failure=failure, stopped_by=StopReason.CANCEL)
