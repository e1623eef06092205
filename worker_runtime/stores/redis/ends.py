"""How this process's attempts end: written to Redis, counted, and told to a fleet's hooks."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import COMPLETED, QUEUED, SCHEDULED, TERMINAL_STATES
from worker_runtime.stores.boundary import LOOKS_ONLY, Host, Recorded
from worker_runtime.stores.redis.leases import Lease, LeaseKeeper
from worker_runtime.stores.redis.manner import Manner
from worker_runtime.stores.redis.outbox import Finish, Outbox
from worker_runtime.stores.redis.script import REDIS_ERRORS
from worker_runtime.stores.redis.wire.records import Records

logger = logging.getLogger("worker_runtime.redis")

_CLOSE_WITHIN_S = 5.0
_NEWEST_WEIGHT = 0.05


class Ends:
    """Records how attempts ended, each once, while the lease under which it ran is held.

    `completed`, `failed` and `retried` are arq's figures of a worker; `attempt_mean_s` says how
    long its recent attempts took. `release` gives leases back, as `RedisStore.release`.
    """

    def __init__(
        self,
        outbox: Outbox,
        leases: LeaseKeeper,
        records: Records,
        manner: Manner,
        *,
        release: Callable[[Sequence[Lease]], Awaitable[None]],
    ) -> None:
        self._outbox = outbox
        self._leases = leases
        self._records = records
        self._manner = manner
        self._release = release
        self._on_room = LOOKS_ONLY.on_room
        self._errors: dict[str, Any] = {}
        self._finishing = 0
        self._hook_runs: set[asyncio.Task[None]] = set()
        self.completed = self.failed = self.retried = 0
        self.attempt_mean_s = 1.0

    def __str__(self) -> str:  # in the words of arq's health key
        return f"j_complete={self.completed} j_failed={self.failed} j_retried={self.retried}"

    def start(self, host: Host) -> None:
        """Begin to write."""
        self._on_room = host.on_room
        self._outbox.start(host.clock)

    async def close(self) -> None:
        """Write what is left, for a few seconds."""
        await self._hooks_ended()
        await self._outbox.close(_CLOSE_WITHIN_S)
        await self._hooks_ended()  # those of what was written just now

    @property
    def in_slots(self) -> int:
        """Jobs whose attempts have ended and which occupy their slots all the same."""
        return self._finishing + (len(self._outbox) if self._manner.has_after_end else 0)

    @property
    def are_written(self) -> bool:
        """Whether every attempt that has ended is written, and its hooks have run."""
        return not self._finishing and not len(self._outbox)

    def note_error(self, job_id: str, error: Any) -> None:
        """What an attempt of the job raised, for its result: a job's record has only the words."""
        self._errors[job_id] = error

    def error_of(self, job_id: str) -> Any:
        """What `note_error` was told last and is not written yet; None where nothing."""
        return self._errors.get(job_id)

    # Record

    def record_started(self, job: Job) -> asyncio.Future[None] | None:
        """Nothing to write: the claim counted the try."""
        return None

    def record_transition(self, job: Job, transition: Transition, then: Recorded) -> None:
        lease = self._leases.held.get(job.id)
        if lease is None:  # somebody else has taken it over, or ended it
            self._errors.pop(job.id, None)
            then(superseded=True)
            return
        before = self._manner.before_end(job, transition)
        if before is None:
            self._put(job, transition, lease, then)
        else:
            self._finishing += 1
            self._run_hook(self._put_after(before, job, transition, lease, then))

    async def _put_after(
        self,
        before: Awaitable[None],
        job: Job,
        transition: Transition,
        lease: Lease,
        then: Recorded,
    ) -> None:
        try:
            await before
        finally:
            self._finishing -= 1
            self._put(job, transition, lease, then)

    def _put(self, job: Job, transition: Transition, lease: Lease, then: Recorded) -> None:
        finish = Finish(lease, done=_not_yet)
        finish.done = functools.partial(self._written, job, transition, finish, then)
        error = self._errors.pop(job.id, None)
        self._count(job, transition)
        if transition.state in (QUEUED, SCHEDULED):
            is_later = transition.state is SCHEDULED
            finish.again = str(round(transition.due_at * 1000)) if is_later else "="
            finish.tries_after = transition.attempt
            finish.crashes_after = transition.crashes
        else:
            finish.hold_ms = self._manner.hold_ms(job)
            ttl_ms = self._manner.result_ttl_ms(job)
            if ttl_ms is not None:
                finish.ttl_ms = ttl_ms
                result = self._records.result(job, transition, lease, error)
                if result is None:
                    logger.critical("job %s: its result cannot be serialized", job.id)
                finish.result = result or b""
        lease.is_ending = True
        self._outbox.put(finish)
        self._on_room()

    def _written(
        self, job: Job, transition: Transition, finish: Finish, then: Recorded, is_ours: bool
    ) -> None:
        lease = finish.lease
        successor, lease.successor = lease.successor, None
        if successor is not None and not is_ours:
            # The lease had run out, and this process took the job up again: its end still counts.
            lease.token, lease.tries = successor.token, successor.tries
            self._outbox.put(finish)
            return
        if self._leases.held.get(job.id) is lease:
            del self._leases.held[job.id]
        if is_ours:
            then()
        else:
            logger.warning("job %s: another worker has it by now; its end here is dropped", job.id)
            then(superseded=True)
        if successor is not None:  # the retry was claimed before this was known: the next claim's
            self._run_hook(self._give_back(successor))
        after = self._manner.after_end(job, transition)
        if after is not None:
            self._finishing += 1
            self._run_hook(self._after(after))
        self._on_room()

    def _count(self, job: Job, transition: Transition) -> None:
        if transition.state is COMPLETED:
            self.completed += 1
        elif transition.state in TERMINAL_STATES:
            self.failed += 1
        else:
            self.retried += 1
        if job.started_at is not None:
            taken_s = max(0.0, transition.at - job.started_at)
            self.attempt_mean_s += _NEWEST_WEIGHT * (taken_s - self.attempt_mean_s)

    # Hooks

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._release([lease])
        except REDIS_ERRORS as error:
            logger.warning(
                "job %s runs again when its lease has ended: it could not be given back: %s",
                lease.job_id,
                error,
            )

    async def _after(self, after: Awaitable[None]) -> None:
        try:
            await after
        finally:
            self._finishing -= 1
            self._on_room()

    def _run_hook(self, run: Any) -> None:
        task = asyncio.get_running_loop().create_task(run)
        self._hook_runs.add(task)
        task.add_done_callback(self._hook_runs.discard)

    async def _hooks_ended(self) -> None:
        if self._hook_runs:
            await asyncio.wait(self._hook_runs, timeout=_CLOSE_WITHIN_S)


def _not_yet(_: bool) -> None:
    raise AssertionError("set before the finish is put")
