"""A store for tests: a dict that keeps jobs for whichever runtime opens it next.

Written against `worker_runtime.stores.boundary` alone, as somebody else's store would be.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from worker_runtime.errors import (
    ConfigurationError,
    InvalidArguments,
    PayloadTooLarge,
    StoreUnavailable,
)
from worker_runtime.model.activity import Activity, Failure
from worker_runtime.model.bounded import Unencodable, encode_value
from worker_runtime.model.figures import StoreStatistics
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job, accepted_arguments, ttl_of, unless_same
from worker_runtime.model.outcome import Transition, with_ended_attempt
from worker_runtime.model.states import FAILED, QUEUED, RUNNING, SCHEDULED, TERMINAL_STATES, Reason
from worker_runtime.model.tasks.crash_rule import reason_to_fail
from worker_runtime.stores.boundary import (
    LOOKS_ONLY,
    Feature,
    Here,
    Host,
    Recorded,
    Recorder,
    Session,
)
from worker_runtime.stores.local import LocalStore

_decode = msgspec.msgpack.decode


class Kept(msgspec.Struct):
    """A job as it was recorded last: `job` without what it was called with and came to, which are
    MessagePack."""

    job: Job
    call: bytes
    result: bytes | None = None


class DictStore(LocalStore):
    """Keeps jobs as long as it lives itself; one runtime at a time may have it open."""

    kind = "dict"
    lacks: Mapping[Feature, str] = {"transaction": "a dict has no transactions"}
    outlives_process = True
    must_encode_results = True
    last_order = 0

    def __init__(
        self,
        *,
        payload_bytes_max: int = 1 << 20,
        crashes_max: int = 3,
        kept_count_max: int = 10_000,
        kept_ttl_s: float = 86_400.0,
    ) -> None:
        super().__init__()
        self.payload_bytes_max = payload_bytes_max
        self.crashes_max = crashes_max
        self.kept_count_max = kept_count_max
        self.kept_ttl_s = kept_ttl_s
        self._jobs: dict[str, Kept] = {}
        self._notes: dict[str, tuple[str, float | None]] = {}
        self._host = LOOKS_ONLY
        self._is_open = False

    def as_after_a_kill(self) -> DictStore:
        """Another store, with what this one has now."""
        other = DictStore(
            payload_bytes_max=self.payload_bytes_max,
            crashes_max=self.crashes_max,
            kept_count_max=self.kept_count_max,
            kept_ttl_s=self.kept_ttl_s,
        )
        other._jobs = {
            job_id: Kept(msgspec.structs.replace(kept.job), kept.call, kept.result)
            for job_id, kept in self._jobs.items()
        }
        other._notes = dict(self._notes)
        return other

    # Life

    @property
    def recorder(self) -> Recorder:
        return self

    async def open(self, host: Host = LOOKS_ONLY) -> None:
        if self._is_open:
            raise ConfigurationError("this store is in use by another runtime")
        self._is_open = True
        self._host, self._clock = host, host.clock
        self.last_order = max((kept.job.order for kept in self._jobs.values()), default=0)

    async def close(self) -> None:
        self._is_open = False

    async def recover(self) -> AsyncIterator[Sequence[Job]]:
        found = []
        for kept in sorted(self._jobs.values(), key=lambda kept: kept.job.order):
            if kept.job.state is RUNNING:
                self._count_crash(kept)
            if kept.job.is_ended:
                continue
            try:
                found.append(self._job(kept, checked=True))
            except InvalidArguments as error:
                text = f"the stored arguments no longer fit the task: {error}"
                failure = Failure(Reason.ERROR, "InvalidArguments", text)
                _end(kept.job, failure, self._clock.wall())
        yield found

    def _count_crash(self, kept: Kept) -> None:
        job = kept.job
        task = self._host.find_task(job.task.name)
        crashes = job.crashes + 1
        reason = reason_to_fail(task.on_crash, crashes, self.crashes_max)
        words = f"the worker process died while attempt {job.attempt} ran"
        failure = Failure(reason or Reason.CRASHED, "ProcessDied", words)
        if reason is None:
            now = self._clock.wall()
            again = Transition(QUEUED, now, None, failure, job.due_at, job.attempt, crashes)
            _show(job, again)
        else:
            job.crashes = crashes
            _end(job, failure, self._clock.wall())

    # Record

    def record_accepted(self, jobs: Sequence[Job]) -> None:
        made = {job.id: self._kept(job) for job in jobs}
        for kept in made.values():
            kept.job.state = SCHEDULED if kept.job.due_at > kept.job.created_at else QUEUED
        self._jobs.update(made)

    async def acknowledged(self, job: Job) -> None:
        """It was, when it was recorded."""

    def record_started(self, job: Job) -> None:
        kept = self._jobs.get(job.id)
        if kept is None or kept.job.order != job.order:  # a slot has it, and it was refused
            raise StoreUnavailable("this job was never accepted")
        kept.job = _bare(job)
        kept.job.state = RUNNING

    def record_transition(self, job: Job, transition: Transition, then: Recorded) -> None:
        kept = self._jobs.get(job.id)
        if kept is None or job.is_ended:  # that one is to run again, and may have been forgotten
            kept = self._jobs[job.id] = self._kept(job)
        kept.job = _bare(job)
        _show(kept.job, transition)
        if transition.state in TERMINAL_STATES:
            kept.result = transition.encoded
            self._forget_oldest(job.queue)
        then()

    def _kept(self, job: Job) -> Kept:
        """Raises InvalidArguments, PayloadTooLarge."""
        try:
            encoded = encode_value(accepted_arguments(job), sys.maxsize)
        except Unencodable as error:
            raise InvalidArguments(f"task {job.task.name}: the arguments {error}") from None
        if len(encoded) > self.payload_bytes_max:
            raise PayloadTooLarge(f"task {job.task.name}: {len(encoded)} bytes are too many")
        return Kept(_bare(job), encoded)

    def _forget_oldest(self, queue: str) -> None:
        ended = [k.job for k in self._jobs.values() if k.job.is_ended and k.job.queue == queue]
        ended.sort(key=lambda job: job.ended_at or 0.0)
        for job in ended[: -self.kept_count_max]:
            del self._jobs[job.id]

    # Look

    async def find(self, job_id: str) -> Job | None:
        kept = self._jobs.get(job_id)
        return None if kept is None or not self._is_shown(kept) else self._job(kept)

    async def page(
        self, wanted: JobFilter, here: Here, *, limit: int, below: int | None
    ) -> tuple[list[Job], int | None]:
        found = {
            job.order: job for job in here.listed(wanted.matches, limit=limit + 1, below=below)
        }
        for kept in self._jobs.values():
            job = kept.job
            if job.id in here.jobs or not self._is_shown(kept) or not wanted.matches(job):
                continue
            if below is None or job.order < below:
                found[job.order] = self._job(kept)
        jobs = [found[order] for order in sorted(found, reverse=True)]
        return jobs[:limit], jobs[limit - 1].order if len(jobs) > limit else None

    async def ended(self, task: str, *, limit: int, below: int | None) -> list[Job]:
        found = [
            self._job(kept)
            for kept in self._jobs.values()
            if self._is_shown(kept) and kept.job.task.name == task
            if below is None or kept.job.order < below
        ]
        return sorted(found, key=lambda job: -job.order)[:limit]

    async def delete(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            kept = self._jobs.get(job_id)
            if kept is not None and kept.job.is_ended:
                del self._jobs[job_id]

    def transaction(self, timeout_s: float) -> AbstractAsyncContextManager[Session]:
        raise ConfigurationError(self.lacks["transaction"])

    def _is_shown(self, kept: Kept) -> bool:
        ttl_s = ttl_of(kept.job)
        keeps_s = self.kept_ttl_s if ttl_s is None else ttl_s
        return kept.job.ended_at is not None and kept.job.ended_at + keeps_s >= self._clock.wall()

    def _job(self, kept: Kept, *, checked: bool = False) -> Job:
        """A record of its own. Raises InvalidArguments, where it is `checked`."""
        job = _bare(kept.job)
        job.task = self._host.find_task(kept.job.task.name)
        args, kwargs = _decode(kept.call)
        job.args, job.kwargs = tuple(args), kwargs
        if job.options is None or job.options.takes_results is None:  # else some are to come
            try:
                job.args, job.kwargs = job.task.signature.bind(job.args, job.kwargs, wire=True)
            except InvalidArguments:
                if checked:
                    raise
        job.accepted = unless_same((tuple(args), kwargs), job.args, job.kwargs)
        if kept.result is not None:
            job.result = _decode(kept.result)
            try:
                job.result = msgspec.convert(job.result, job.task.signature.returns)
            except msgspec.ValidationError:
                pass  # the task returns something else by now
        return job

    # Notes and figures

    async def load_note(self, key: str) -> str | None:
        text, until = self._notes.get(key, (None, None))
        return None if until is not None and until < self._clock.wall() else text

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        self._notes[key] = (text, until)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(kind=self.kind)


def _bare(job: Job) -> Job:
    """A copy without arguments, result and waiters."""
    activity = job.activity
    if activity is not None:
        activity = Activity(
            activity.progress,
            list(activity.metrics),
            activity.metrics_dropped,
            list(activity.attempts),
        )
    return msgspec.structs.replace(
        job, args=(), kwargs=None, result=None, waiters=None, activity=activity
    )


def _show(job: Job, transition: Transition) -> None:
    """Bring a copy of a job to the state that a transition leads to."""
    is_end = transition.state in TERMINAL_STATES
    if not is_end and transition.failure is not None:
        activity = job.activity_made()
        activity.attempts = with_ended_attempt(activity.attempts, job, transition)
    job.state, job.attempt, job.crashes = transition.state, transition.attempt, transition.crashes
    if is_end:
        job.ended_at, job.failure = transition.at, transition.failure
    else:
        job.due_at = transition.due_at
        job.started_at = job.ended_at = job.failure = None


def _end(job: Job, failure: Failure, now: float) -> None:
    job.state, job.ended_at, job.failure = FAILED, now, failure
