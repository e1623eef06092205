"""What processes tell each other through Redis beside jobs: that there is something to do, that a
job is to be aborted, that a worker lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.model.job import Job
from worker_runtime.stores.redis.leases import LeaseKeeper
from worker_runtime.stores.redis.location import RedisLocation, close_client
from worker_runtime.stores.redis.script import REDIS_ERRORS
from worker_runtime.stores.redis.wire.layout import ABORT_AGE_MAX_MS, ABORT_KEY, WAKE_CHANNEL

_LISTEN_AGAIN_AFTER_S = 1.0


class Signals:
    """Hears and gives signs. All methods but `listen` raise redis errors."""

    def __init__(
        self, location: RedisLocation, client: Any, leases: LeaseKeeper, clock: Clock
    ) -> None:
        self._location = location
        self._client = client
        self._leases = leases
        self._wall = clock.wall

    async def listen(
        self, keys: Iterable[str], *, on_work: Callable[[], None], on_abort: Callable[[], None]
    ) -> None:
        """Hear what clients of ours say about these lines, until it is cancelled: that there may be
        something to do, that a job is to be aborted. What is said while Redis is away is lost."""
        channels = [WAKE_CHANNEL + key for key in keys]
        client = self._location.connect()
        try:
            while True:
                try:
                    async with client.pubsub() as pubsub:
                        await pubsub.subscribe(*channels)
                        while True:
                            message = await pubsub.get_message(
                                ignore_subscribe_messages=True, timeout=30.0
                            )
                            if message is not None:
                                is_abort = message.get("data") == b"abort"
                                (on_abort if is_abort else on_work)()
                except REDIS_ERRORS:
                    await asyncio.sleep(_LISTEN_AGAIN_AFTER_S)
        finally:
            await close_client(client)

    async def obey_aborts(
        self, find: Callable[[str], Job | None], abort: Callable[[Job], None]
    ) -> None:
        """Call `abort` for each job that this process holds and somebody ordered to abort. One that
        `find` does not know yet is left for the next look."""
        held = self._leases.held
        if not held:
            return
        pipe = self._client.pipeline(transaction=True)
        pipe.zrange(ABORT_KEY, 0, -1, withscores=True)  # before the purge: clocks differ
        pipe.zremrangebyscore(ABORT_KEY, "-inf", self._wall() * 1000 - ABORT_AGE_MAX_MS)
        asked, _ = await pipe.execute()
        obeyed = []
        for raw, asked_ms in asked:
            lease = held.get(raw.decode())
            job = None if lease is None else find(lease.job_id)
            if lease is None or job is None:
                continue
            obeyed.append(raw)
            # An order from before the job's own enqueue was meant for an earlier job of that id.
            if asked_ms >= lease.enqueued_ms:
                abort(job)
        if obeyed:
            await self._client.zrem(ABORT_KEY, *obeyed)

    async def count(self, key: str) -> int:
        """How many jobs are in a line, those that run included."""
        return int(await self._client.zcard(key))

    async def write_health(self, key: str, text: str, lives_s: float) -> None:
        """Write a health key, which goes by itself after `lives_s` seconds."""
        await self._client.psetex(key, int(lives_s * 1000), text)

    async def delete_health(self, keys: Iterable[str]) -> None:
        """Take health keys away: their worker is gone."""
        await self._client.delete(*keys)
