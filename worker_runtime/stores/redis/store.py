"""The Redis store: accepted jobs wait in Redis, in arq's layout, for any worker of the fleet.

This file is the store itself. What it is made of stands beside it: the wire format (`wire`), claims
and their leases, how attempts end (`ends`) and get written (`outbox`), how jobs are looked up and
acted on from outside (`lookup`), what processes tell each other (`signals`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from worker_runtime.errors import (
    ConfigurationError,
    InvalidTransition,
    QueueFull,
    StoreUnavailable,
)
from worker_runtime.model.figures import StoreStatistics
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job
from worker_runtime.model.states import TERMINAL_STATES, Priority
from worker_runtime.model.tasks.kinds import CLASSES_DO_NOT_TRAVEL
from worker_runtime.stores.boundary import LOOKS_ONLY, Feature, Here, Host, Recorder, Session
from worker_runtime.stores.redis.claims import ClaimCalls
from worker_runtime.stores.redis.ends import Ends
from worker_runtime.stores.redis.leases import Lease, LeaseKeeper, is_in_hand
from worker_runtime.stores.redis.location import RedisLocation, check_server, close_client
from worker_runtime.stores.redis.lookup import Lookup
from worker_runtime.stores.redis.manner import Claims, Manner, queue_key
from worker_runtime.stores.redis.outbox import Outbox
from worker_runtime.stores.redis.script import REDIS_ERRORS, Script
from worker_runtime.stores.redis.signals import Signals
from worker_runtime.stores.redis.wire.layout import (
    BEGUN_PREFIX,
    EXPIRES_EXTRA_MS,
    HEALTH_SUFFIX,
    RETRY_PREFIX,
    RETRY_TTL_S,
    Wire,
)
from worker_runtime.stores.redis.wire.records import Records, priority_keys
from worker_runtime.stores.shared import SharedStore

LEASE_S = 20.0
_NOTE_PREFIX = "worker_runtime:note:"
_UNKNOWN_TTL_S = 30


class RedisStore(SharedStore):
    """Keeps jobs in Redis, shared with every process that speaks arq's wire.

    location    the server
    wire        the fleet's serializer pair
    manner      what is kept how long, and hooks around the end of an attempt
    is_plain    our own manner of records (see `wire.records`); False: arq's to the field
    keys        the Redis keys of a queue, first to be served first, with the priority of each

    Once it is open, `lookup` and `signals` are there too.
    """

    kind = "redis"
    lacks: Mapping[Feature, str] = {
        "unique_key": (
            "unique_key does not work with a Redis store; give the job a job_id of its own"
        ),
        "key": (
            "key does not work with a Redis store, where jobs wait in one line for all workers; "
            "leave it out"
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
        "only_for": CLASSES_DO_NOT_TRAVEL,
        "transaction": "transaction() needs a store in a file: store='sqlite:///...'",
    }

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
        super().__init__()
        self.location = location
        self.manner = manner or Manner(result_ttl_s=result_ttl_s)
        self.records = Records(
            wire or Wire(writes_plain=True), is_plain=is_plain, payload_bytes_max=payload_bytes_max
        )
        self.must_encode_results = is_plain
        self.keys = keys or (lambda name: [(int(p), k) for p, k in priority_keys(queue_key(name))])
        self.lease_s = lease_s
        self._capacities = capacities or {}
        self.outbox = Outbox(location)
        self.leases = LeaseKeeper(location, lease_s=lease_s, on_lost=self._lost_in_thread)
        self.ends = Ends(self.outbox, self.leases, self.records, self.manner, release=self.release)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._unknown_key = ""
        self._enqueue = Script("enqueue")
        self._release = Script("release")
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
        return self.ends

    async def open(self, host: Host = LOOKS_ONLY) -> None:
        if self._is_open:
            return
        self._host = host
        digest = hashlib.sha256("\n".join(sorted(host.task_names)).encode()).hexdigest()[:16]
        # Workers of one kind share the list of the jobs that they skip.
        self._unknown_key = f"worker-runtime:unknown:{digest}"
        await check_server(self.location)
        self._loop = asyncio.get_running_loop()
        self._claim_client = self.location.connect(single_connection_client=True)
        self._client = self.location.connect()
        self._claims = ClaimCalls(
            self._claim_client,
            self.leases,
            host.clock,
            owner=self._owner,
            lease_s=self.lease_s,
        )
        lines = [(name, int(p), key) for name in host.queues for p, key in self.keys(name)]
        self.lookup = Lookup(self._client, self.records, lines, host.find_task, host.clock)
        self.signals = Signals(self.location, self._client, self.leases, host.clock)
        self.ends.start(host)
        self.leases.start()
        self._is_open = True

    async def close(self) -> None:
        """Write what is pending, for a few seconds, and let go of what is held."""
        if not self._is_open:
            return
        self._is_open = False
        await self.ends.close()
        await asyncio.get_running_loop().run_in_executor(None, self.leases.stop)
        for client in (self._claim_client, self._client):
            await close_client(client)

    # Accept

    async def enqueue(self, jobs: Sequence[Job]) -> list[bool]:
        args: list[Any] = []
        for job in jobs:
            due_ms = round(max(job.due_at, job.created_at) * 1000)
            ttl_ms = due_ms - round(job.created_at * 1000) + EXPIRES_EXTRA_MS
            args += (job.id, self.key_of(job), due_ms, ttl_ms, self.records.payload(job))
            args.append(self._capacities.get(job.queue, 0))
        try:
            answers = await self._enqueue.call(self._client, *args)
        except REDIS_ERRORS as error:
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

    def health_key(self, queue: str) -> str:
        """The key that says that the queue has a worker, where nobody calls it otherwise."""
        return self.key_of_queue(queue) + HEALTH_SUFFIX

    def note_failure(self, words: str | None) -> None:
        """What the last call of Redis failed with, outside of the outbox; None: it answered."""
        self._failure = words

    # Claim

    async def claim(self, queue: str, limit: int) -> Claims:
        """Take up to `limit` due jobs of a queue. Raises redis errors; after one that may hide a
        success, the next call finds the jobs of the lost answer again."""
        try:
            claims = await self._claims.take(self.keys(queue), limit, self._unknown_key)
        except REDIS_ERRORS as error:
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
        await self._client.set(RETRY_PREFIX + lease.job_id, tries, ex=RETRY_TTL_S)
        lease.tries = tries

    async def has_begun(self, job_id: str) -> bool:
        """Whether an attempt of a waiting job began that used up no try. Raises redis errors."""
        return bool(await self._client.exists(BEGUN_PREFIX + job_id))

    async def release(self, leases: Sequence[Lease], *, unknown: bool = False) -> None:
        """Give claimed jobs back unstarted. `unknown`: this kind of worker does not have their
        task, so that it leaves them alone for a while."""
        if not leases:
            return
        args: list[Any] = [self._unknown_key if unknown else "", _UNKNOWN_TTL_S]
        for lease in leases:
            self.leases.held.pop(lease.job_id, None)
            args += (lease.job_id, lease.queue_key, lease.token)
        await self._release.call(self._client, *args)

    async def bury(self, lease: Lease, queue: str, payload: bytes, reason: str) -> None:
        """Park a claimed job that cannot be read, for a week, with the reason."""
        await self.lookup.bury(lease.job_id, queue, payload, reason)
        self._dead_letters_count += 1

    async def has_work(self, queues: Iterable[str]) -> bool:
        """Whether there are jobs in the queues, those that run included, other than those that this
        kind of worker leaves to others. Raises redis errors."""
        pipe = self._client.pipeline(transaction=False)
        for name in queues:
            for _, key in self.keys(name):
                pipe.zcard(key)
        count = sum(await pipe.execute())
        return bool(count and count > await self._client.scard(self._unknown_key))

    def _lost_in_thread(self, leases: list[Lease]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._lost, leases)
        except RuntimeError:  # the loop is closed
            pass

    def _lost(self, leases: list[Lease]) -> None:
        held = self.leases.held
        job_ids = [lease.job_id for lease in leases if is_in_hand(held, lease)]
        for job_id in job_ids:
            del held[job_id]
        self._host.on_lost(job_ids)

    # Look

    async def find(self, job_id: str) -> Job | None:
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
        text = await self._client.get(_NOTE_PREFIX + key)
        return text.decode() if isinstance(text, bytes) else text

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        left_s = None if until is None else max(1, math.ceil(until - self._host.clock.wall()))
        await self._client.set(_NOTE_PREFIX + key, text, ex=left_s)

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
