"""The health key: a line of text in Redis that says that a queue's worker lives, and how its
attempts have ended. arq's format."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from worker_runtime.clock.source import Clock
from worker_runtime.stores.redis.location import end_tasks
from worker_runtime.stores.redis.script import REDIS_ERRORS
from worker_runtime.stores.redis.store import RedisStore

logger = logging.getLogger("arq.worker")

_RETRY_S = 1.0


class HealthKey:
    """Writes the health keys of some queues every `every_s` seconds, on a timer of its own, so that
    they are written also while every slot is busy. Each lives a second longer than the interval."""

    def __init__(
        self,
        store: RedisStore,
        queues: Iterable[str],
        clock: Clock,
        every_s: float,
        key: str | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._every_s = every_s
        self._keys = {store.key_of_queue(name): key or store.health_key(name) for name in queues}
        self._timer: asyncio.Task[None] | None = None
        self._last_figures = ""

    async def start(self) -> None:
        if self._every_s > 0:
            await self._beat()
            self._timer = asyncio.get_running_loop().create_task(self._run(), name="health-key")

    async def stop(self) -> None:
        """Take the keys away: this worker is gone."""
        if self._timer is None:
            return
        await end_tasks([self._timer])
        try:
            await self._store.signals.delete_health(self._keys.values())
        except REDIS_ERRORS as error:
            logger.warning("the health key could not be deleted: %s", error)

    async def _run(self) -> None:
        wait_s = self._every_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._every_s if await self._beat() else min(_RETRY_S, self._every_s)

    async def _beat(self) -> bool:
        store = self._store
        figures = text = ""
        try:
            for queue_key, key in self._keys.items():
                queued = await store.signals.count(queue_key)
                figures = f"{store.ends} j_ongoing={store.ongoing} queued={queued}"
                now = (
                    self._clock.now_utc().astimezone()
                )  # arq writes local time, without saying which
                text = f"{now:%b-%d %H:%M:%S} {figures}"
                await store.signals.write_health(key, text, self._every_s + 1)
        except REDIS_ERRORS as error:
            logger.warning("the health key could not be written: %s", error)
            store.note_failure(f"Redis does not answer: {error}")
            return False
        store.note_failure(None)
        if self._last_figures and figures != self._last_figures:
            logger.info("recording health: %s", text)
        self._last_figures = figures
        return True
