"""The Redis store: accepted jobs wait in Redis, in arq's layout, for any worker of the fleet.

This file is the store itself: claims and ends of attempts. What it is made of stands beside it: the
wire format (`wire`), leases, the way of results back (`outbox`), and how jobs are looked up and
acted on from outside (`lookup`).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from redis import exceptions

from worker_runtime.errors import (
    ConfigurationError,
    InvalidTransition,
    QueueFull,
    StoreUnavailable,
    WorkerRuntimeError,
)
from worker_runtime.model.figures import StoreStatistics
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import QUEUED, SCHEDULED, TERMINAL_STATES, Priority
from worker_runtime.stores.boundary import (
    LOOKS_ONLY,
    Accepted,
    Admitter,
    Feature,
    Here,
    Host,
    New,
    Recorded,
    Recorder,
    Session,
)
from worker_runtime.stores.redis.claims import ClaimCalls
from worker_runtime.stores.redis.ends import EndCounts
from worker_runtime.stores.redis.leases import Lease, LeaseKeeper, is_in_hand
from worker_runtime.stores.redis.location import RedisLocation, check_server, close_client
from worker_runtime.stores.redis.lookup import Lookup
from worker_runtime.stores.redis.manner import Claims, Manner, queue_key
from worker_runtime.stores.redis.outbox import Finish, Outbox
from worker_runtime.stores.redis.script import Script
from worker_runtime.stores.redis.wire.layout import (
    EXPIRES_EXTRA_MS,
    RETRY_PREFIX,
    RETRY_TTL_S,
    Wire,
)
from worker_runtime.stores.redis.wire.records import Records, priority_keys

logger = logging.getLogger("worker_runtime.redis")

LEASE_S = 20.0
_NOTE_PREFIX = "worker_runtime:note:"
_UNKNOWN_TTL_S = 30
_FLUSH_WITHIN_S = 5.0


class RedisStore:
    """Keeps jobs in Redis, shared with every process that speaks arq's wire.

    location    the server
    wire        the fleet's serializer pair
    manner      what is kept how long, and hooks around the end of an attempt
    is_plain    our own manner of records (see `wire.records`); False: arq's to the field
    keys        the Redis keys of a queue, first to be served first, with the priority of each
    """

    kind = "redis"
    lacks: Mapping[Feature, str] = {
        "unique_key": (
            "unique_key does not work with a Redis store; give the job a job_id of its own"
        ),
        "after": "after does not work with a Redis store; enqueue from the job before it",
        "workflows": "chains and groups do not work with a Redis store",
        "delete": "a Redis store forgets ended jobs by itself, and only so",
        "limits": (
            "limits of queues, tasks and keys do not work with a Redis store, where other workers "
            "start jobs too; leave limit and per_key out"
        ),
        "aging": (
            "aging_s cannot work with a Redis store, where each priority is a line of its own; "
            "leave it out"
        ),
        "transaction": "transaction() needs a store in a file: store='sqlite:///...'",
    }
    outlives_process = True
    hands_out = True
    last_order = 0  # an order is made of the enqueue's time, which all processes share

    def __init__(
        self,
        location: RedisLocation,
        *,
        wire: Wire | None = None,
        manner: Manner | None = None,
        is_plain: bool = True,
        keys: Callable[[str], list[tuple[int, str]]] | None = None,
        lease_s: float = LEASE_S,
        payload_bytes_max: int = 1 << 20,
        result_ttl_s: float = 86_400.0,
        capacities: Mapping[str, int] | None = None,
    ) -> None:
        self.location = location
        self.manner = manner or Manner(result_ttl_s=result_ttl_s)
        self.records = Records(
            wire or Wire(writes_plain=True), is_plain=is_plain, payload_bytes_max=payload_bytes_max
        )
        self.must_encode_results = is_plain
        self.keys = keys or (lambda name: [(int(p), k) for p, k in priority_keys(queue_key(name))])
        self.lease_s = lease_s
        self._capacities = capacities or {}
        self._host = LOOKS_ONLY
        self.finishing = 0
        self.ends = EndCounts()
        self._errors: dict[str, Any] = {}
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._unknown_key = ""
        self._enqueue = Script("enqueue")
        self._release = Script("release")
        self._hook_runs: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._failure: str | None = None
        self._dead_letters_count = 0
        self.claimed_count = 0

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisStore:
        """From `redis://[user:password@]host[:port][/database][?serializer=pickle|msgpack|json]`.
        Raises ConfigurationError."""
        base, _, query = url.partition("?")
        chosen, rest = "pickle", []
        for part in filter(None, query.split("&")):
            name, _, value = part.partition("=")
            if name == "serializer":
                chosen = value
            else:
                rest.append(part)
        location = RedisLocation.from_url(base + ("?" + "&".join(rest) if rest else ""))
        return cls(location, wire=Wire.named(chosen), **options)

    # Life

    @property
    def recorder(self) -> Recorder:
        return self

    async def open(self, host: Host = LOOKS_ONLY) -> None:
        if self._is_open:
            return
        self._host = host
        digest = hashlib.sha256("\n".join(sorted(host.task_names)).encode()).hexdigest()[:16]
        # Workers of one kind share the list of the jobs that they skip.
        self._unknown_key = f"worker-runtime:unknown:{digest}"
        await check_server(self.location)
        loop = asyncio.get_running_loop()
        self._claim_client = self.location.connect(single_connection_client=True)
        self._outbox_client = self.location.connect(single_connection_client=True)
        self.client = self.location.connect()
        self.outbox = Outbox(self._outbox_client, host.clock)
        self.leases = LeaseKeeper(
            self.location,
            lease_s=self.lease_s,
            on_lost=lambda lost: _from_thread(loop, self._lost, lost),
        )
        self._claims = ClaimCalls(
            self._claim_client,
            self.leases,
            host.clock,
            owner=self._owner,
            lease_s=self.lease_s,
        )
        lines = [(name, int(p), key) for name in host.queues for p, key in self.keys(name)]
        self.lookup = Lookup(self.client, self.records, lines, host.find_task, host.clock)
        self.outbox.start()
        self.leases.start()
        self._is_open = True

    async def recover(self) -> AsyncIterator[Sequence[Job]]:
        """None: unfinished jobs are claimed, by whoever is free first."""
        return
        yield ()

    async def close(self) -> None:
        """Write what is pending, for a few seconds, and let go of what is held."""
        if not self._is_open:
            return
        self._is_open = False
        await self._hooks_ended()
        await self.outbox.close(_FLUSH_WITHIN_S)
        await self._hooks_ended()  # those of what was written just now
        await asyncio.get_running_loop().run_in_executor(None, self.leases.stop)
        for client in (self._claim_client, self._outbox_client, self.client):
            await close_client(client)

    async def _hooks_ended(self) -> None:
        if self._hook_runs:
            await asyncio.wait(self._hook_runs, timeout=_FLUSH_WITHIN_S)

    # Accept

    async def accept(self, new: New, admitter: Admitter) -> Accepted:
        admitter.check_room(new.job)
        [accepted] = await self._accept([new.job], admitter)
        return accepted

    async def accept_all(
        self,
        jobs: Sequence[Job],
        admitter: Admitter,
        *,
        parents: Sequence[Sequence[Job]] | None = None,
        is_named: bool = False,
    ) -> list[Job]:
        admitter.check_room_for(jobs)
        return [job for job, _ in await self._accept(jobs, admitter)]

    async def accept_each(
        self, news: Sequence[New | WorkerRuntimeError], admitter: Admitter
    ) -> list[Accepted | WorkerRuntimeError]:
        answers: list[Accepted | WorkerRuntimeError] = []
        for new in news:
            try:
                answers.append(await self.accept(new, admitter) if isinstance(new, New) else new)
            except WorkerRuntimeError as error:
                answers.append(error)
        return answers

    async def _accept(self, jobs: Sequence[Job], admitter: Admitter) -> list[Accepted]:
        """Put jobs into Redis. For each: its record, and whether it is new. Raises Refused;
        JobConflict where the id belongs to a job with another payload."""
        records: list[Accepted] = []
        for job, is_new in zip(jobs, await self.enqueue(jobs), strict=True):
            if is_new:
                admitter.announce(job)
                self._host.remember(job)
                records.append((job, True))
            else:
                records.append((await self._kept(job, admitter), False))
        return records

    async def _kept(self, job: Job, admitter: Admitter) -> Job:
        known = self._host.job_here(job.id) or await self.find(job.id)
        if known is None:  # it ended and was forgotten in this very moment
            [is_new] = await self.enqueue([job])
            return job if is_new else await self._kept(job, admitter)
        admitter.check_same(known, job)
        return known

    async def known(self, new: New, admitter: Admitter) -> Job | None:
        known = await self.find(new.job.id) if new.is_named else None
        if known is not None:
            admitter.check_same(known, new.job)
        return known

    async def enqueue(self, jobs: Sequence[Job]) -> list[bool]:
        """Put jobs into their queues, all or none. For each: False where its id is in use already.

        Raises StoreUnavailable, QueueFull, InvalidJob, PayloadTooLarge.
        """
        args: list[Any] = []
        for job in jobs:
            due_ms = round(max(job.due_at, job.created_at) * 1000)
            ttl_ms = due_ms - round(job.created_at * 1000) + EXPIRES_EXTRA_MS
            args += (job.id, self.key_of(job), due_ms, ttl_ms, self.records.payload(job))
            args.append(self._capacities.get(job.queue, 0))
        try:
            answers = await self._enqueue.call(self.client, *args)
        except (exceptions.RedisError, OSError) as error:
            self.note_failure(f"Redis cannot take jobs: {error}")
            raise StoreUnavailable(f"Redis cannot take the job now: {error}") from None
        self.note_failure(None)
        if answers[0] == -1:
            name = jobs[answers[1] - 1].queue
            raise QueueFull(
                f"queue {name!r} is full: {self._capacities[name]} jobs may wait in Redis, and do"
            )
        return [answer == 1 for answer in answers]

    def key_of(self, job: Job) -> str:
        """The Redis key of the line that the job waits in."""
        keys = self.keys(job.queue)
        return next((key for priority, key in keys if priority == job.priority), keys[-1][1])

    def key_of_queue(self, queue: str) -> str:
        """The queue's own key: that of its jobs of normal priority."""
        keys = self.keys(queue)
        return next((key for p, key in keys if p == int(Priority.NORMAL)), keys[-1][1])

    def note_failure(self, words: str | None) -> None:
        """What the last call of Redis failed with, outside of the outbox; None: it answered."""
        self._failure = words

    # Claim

    async def claim(self, queue: str, limit: int) -> Claims:
        """Take up to `limit` due jobs of a queue. Raises redis errors; after one that may hide a
        success, the next call finds the jobs of the lost answer again."""
        try:
            claims = await self._claims.take(self.keys(queue), limit, self._unknown_key)
        except (exceptions.RedisError, OSError) as error:
            self.note_failure(f"jobs cannot be claimed from Redis: {error}")
            raise
        self.note_failure(None)
        self.claimed_count += len(claims.jobs)
        return claims

    def note_unanswered(self, token: str) -> None:
        """As `claims.ClaimCalls.note_unanswered`."""
        self._claims.note_unanswered(token)

    async def count_tries(self, lease: Lease, tries: int) -> None:
        """Take over the number of the first try that the enqueuer asked for."""
        await self.client.set(RETRY_PREFIX + lease.job_id, tries, ex=RETRY_TTL_S)
        lease.tries = tries

    async def release(self, leases: Sequence[Lease], *, unknown: bool = False) -> None:
        """Give claimed jobs back unstarted. `unknown`: this kind of worker does not have their
        task, so that it leaves them alone for a while."""
        if not leases:
            return
        args: list[Any] = [self._unknown_key if unknown else "", _UNKNOWN_TTL_S]
        for lease in leases:
            self.leases.held.pop(lease.job_id, None)
            args += (lease.job_id, lease.queue_key, lease.token)
        await self._release.call(self.client, *args)

    async def bury(self, lease: Lease, queue: str, payload: bytes, reason: str) -> None:
        """Park a claimed job that cannot be read, for a week, with the reason."""
        await self.lookup.bury(lease.job_id, queue, payload, reason)
        self._dead_letters_count += 1

    async def unknown_count(self) -> int:
        """How many waiting jobs this kind of worker leaves to others."""
        return int(await self.client.scard(self._unknown_key))

    # Run and end

    def note_error(self, job_id: str, error: Any) -> None:
        """What an attempt of the job raised, for its result: a job's record has only the words."""
        self._errors[job_id] = error

    def error_of(self, job_id: str) -> Any:
        """What `note_error` was told last and is not written yet; None where nothing."""
        return self._errors.get(job_id)

    def record_started(self, job: Job) -> asyncio.Future[None] | None:
        """Nothing to write: the claim counted the try."""
        return None

    def record_transition(self, job: Job, transition: Transition, then: Recorded) -> None:
        lease = self.leases.held.get(job.id)
        if lease is None:  # somebody else has taken it over, or ended it
            self._errors.pop(job.id, None)
            then(superseded=True)
            return
        before = self.manner.before_end(job, transition)
        if before is None:
            self._put(job, transition, lease, then)
        else:
            self.finishing += 1
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
            self.finishing -= 1
            self._put(job, transition, lease, then)

    def _put(self, job: Job, transition: Transition, lease: Lease, then: Recorded) -> None:
        finish = Finish(lease, done=_not_yet)
        finish.done = functools.partial(self._written, job, transition, finish, then)
        error = self._errors.pop(job.id, None)
        self.ends.count(job, transition)
        if transition.state in (QUEUED, SCHEDULED):
            is_later = transition.state is SCHEDULED
            finish.again = str(round(transition.due_at * 1000)) if is_later else "="
            finish.tries_after = transition.attempt
            finish.crashes_after = transition.crashes
        else:
            finish.hold_ms = self.manner.hold_ms(job)
            ttl_ms = self.manner.result_ttl_ms(job)
            if ttl_ms is not None:
                finish.ttl_ms = ttl_ms
                result = self.records.result(job, transition, lease, error)
                if result is None:
                    logger.critical("job %s: its result cannot be serialized", job.id)
                finish.result = result or b""
        lease.is_ending = True
        self.outbox.put(finish)
        self._host.on_room()

    @property
    def ending(self) -> int:
        """Jobs whose attempts have ended and which occupy their slots all the same."""
        return self.finishing + (len(self.outbox) if self.manner.has_after_end else 0)

    def _written(
        self, job: Job, transition: Transition, finish: Finish, then: Recorded, is_ours: bool
    ) -> None:
        lease = finish.lease
        successor, lease.successor = lease.successor, None
        if successor is not None and not is_ours:
            # The lease had run out, and this process took the job up again: its end still counts.
            lease.token, lease.tries = successor.token, successor.tries
            self.outbox.put(finish)
            return
        if self.leases.held.get(job.id) is lease:
            del self.leases.held[job.id]
        if is_ours:
            then()
        else:
            logger.warning("job %s: another worker has it by now; its end here is dropped", job.id)
            then(superseded=True)
        if successor is not None:  # the retry was claimed before this was known: the next claim's
            self._run_hook(self._give_back(successor))
        after = self.manner.after_end(job, transition)
        if after is not None:
            self.finishing += 1
            self._run_hook(self._after(after))
        self._host.on_room()

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self.release([lease])
        except (exceptions.RedisError, OSError) as error:
            logger.warning(
                "job %s runs again when its lease has ended: it could not be given back: %s",
                lease.job_id,
                error,
            )

    async def _after(self, after: Awaitable[None]) -> None:
        try:
            await after
        finally:
            self.finishing -= 1
            self._host.on_room()

    def _run_hook(self, run: Any) -> None:
        task = asyncio.get_running_loop().create_task(run)
        self._hook_runs.add(task)
        task.add_done_callback(self._hook_runs.discard)

    def _lost(self, leases: list[Lease]) -> None:
        held = self.leases.held
        job_ids = [lease.job_id for lease in leases if is_in_hand(held, lease)]
        for job_id in job_ids:
            del held[job_id]
        self._host.on_lost(job_ids)

    # Look

    async def find(self, job_id: str) -> Job | None:
        """The job as Redis has it, waiting, running or ended. Raises StoreUnavailable."""
        return await self.lookup.find(job_id)

    async def page(
        self, wanted: JobFilter, here: Here, *, limit: int, below: int | None
    ) -> tuple[list[Job], int | None]:
        def current(job: Job) -> bool:
            return wanted.matches(here.jobs.get(job.id, job))

        jobs, next_below = await self.lookup.page(current, limit=limit, below=below)
        return [here.jobs.get(job.id, job) for job in jobs], next_below

    async def ended(self, task: str, *, limit: int, below: int | None) -> list[Job]:
        wanted = JobFilter(TERMINAL_STATES, task=task)
        jobs, _ = await self.lookup.page(wanted.matches, limit=limit, below=below)
        return jobs

    # Act

    async def cancel(self, job: Job, message: str) -> bool:
        ttl_ms = self.manner.result_ttl_ms(job)
        return await self.lookup.cancel(job, message, 1000 if ttl_ms is None else ttl_ms)

    async def bring_back(self, jobs: Sequence[Job], revive: Callable[[], None]) -> list[Job]:
        records = []
        for job in jobs:
            if not await self.lookup.revive(job, self.key_of(job)):
                raise InvalidTransition(f"job {job.id} waits or runs again already")
            records.append(await self.find(job.id) or job)
        return records

    async def delete(self, job_ids: Sequence[str]) -> None:
        raise InvalidTransition(self.lacks["delete"])

    def transaction(self, timeout_s: float) -> AbstractAsyncContextManager[Session]:
        raise ConfigurationError(self.lacks["transaction"])

    async def load_note(self, key: str) -> str | None:
        text = await self.client.get(_NOTE_PREFIX + key)
        return text.decode() if isinstance(text, bytes) else text

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        left_s = None if until is None else max(1, math.ceil(until - self._host.clock.wall()))
        await self.client.set(_NOTE_PREFIX + key, text, ex=left_s)

    @property
    def ongoing(self) -> int:
        """Jobs that this process holds."""
        return len(self.leases.held)

    def statistics(self) -> StoreStatistics:
        failure = self.outbox.failure if self._is_open else None
        return StoreStatistics(
            kind=self.kind,
            unavailable=failure or self._failure,
            results_held_back=len(self.outbox) if self._is_open else 0,
            leases_held=self.ongoing if self._is_open else 0,
            claimed=self.claimed_count,
            dead_letters=self._dead_letters_count,
        )


def _not_yet(_: bool) -> None:
    raise AssertionError("set before the finish is put")


def _from_thread(
    loop: asyncio.AbstractEventLoop, callback: Callable[[list[Lease]], None], lost: list[Lease]
) -> None:
    try:
        loop.call_soon_threadsafe(callback, lost)
    except RuntimeError:  # the loop is closed
        pass
