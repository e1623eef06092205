"""The life of a runtime: its parts opened in their order, and closed in the opposite one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from worker_runtime.assembly import Parts
from worker_runtime.control.recovery import recover
from worker_runtime.errors import ConfigurationError

logger = logging.getLogger("worker_runtime")

_HOUSEKEEPING_EVERY_S = 1.0


class Lifecycle:
    """Starts once, stops once.

    lifespan  makes what is entered before the first job and left after the last one; its value is
              what contexts carry
    """

    def __init__(
        self, parts: Parts, lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None
    ) -> None:
        self._parts = parts
        self._lifespan = lifespan
        self._exits = AsyncExitStack()
        self.started_at: float | None = None

    async def start(self) -> None:
        """See `Runtime.start`."""
        if self.started_at is not None:
            raise ConfigurationError("this runtime was started before; make a new one")
        self.started_at = self._parts.clock.wall()
        try:
            await self._open()
        except BaseException:
            await self._exits.aclose()
            raise
        await self._begin()

    async def _open(self) -> None:
        """Open what jobs need, and bring back those that an earlier life left."""
        parts, exits = self._parts, self._exits
        for executor in parts.executors.values():
            await executor.open()
            exits.push_async_callback(executor.close)
        if self._lifespan is not None:
            parts.attempts.state = await exits.enter_async_context(self._lifespan())
        await parts.store.open(parts.feed.host())
        exits.push_async_callback(parts.store.close)
        await recover(parts.store, parts.intake, parts.inspection)
        await parts.feed.start()
        exits.push_async_callback(parts.feed.stop)

    async def _begin(self) -> None:
        """Start what works on a clock, and take jobs."""
        parts, exits = self._parts, self._exits
        parts.watchdog.start(asyncio.get_running_loop())
        exits.callback(parts.watchdog.stop)
        housekeeping = asyncio.create_task(self._keep_house(), name="housekeeping")
        exits.callback(housekeeping.cancel)
        if parts.overload.has_limits:
            parts.resources.start()
        exits.push_async_callback(parts.resources.stop)
        parts.intake.is_open = True
        await parts.cron.start()
        exits.push_async_callback(parts.cron.stop)

    def quiet(self) -> None:
        """See `Runtime.quiet`."""
        self._parts.intake.is_open = False
        self._parts.dispatcher.quiet()

    async def drain(self, within_s: float) -> bool:
        """See `Runtime.drain`."""
        self._parts.intake.is_open = False
        try:
            async with asyncio.timeout(within_s):
                await self._parts.draining.wait_drained(self._parts.clock.wall() + within_s)
        except TimeoutError:
            return False
        return True

    async def join(self) -> None:
        """See `Runtime.join`."""
        await self._parts.feed.wait_drained()

    async def stop(self, within_s: float) -> None:
        """See `Runtime.stop`."""
        if self.started_at is None:
            return
        parts = self._parts
        self.quiet()
        await parts.draining.stop(within_s)
        if not parts.store.outlives_process:
            parts.cancellation.cancel_waiting()
        interrupted = parts.finisher.interrupted_count
        if interrupted:
            logger.warning("stopped: %d running jobs were interrupted", interrupted)
        try:
            await self._exits.aclose()
        finally:  # whatever the lifespan's end raised
            parts.table.release_waiters()
            parts.events.close()

    async def _keep_house(self) -> None:
        """What has to be done about once a second, busy or idle."""
        while True:
            self._parts.clock.adjust()
            self._parts.table.prune(self._parts.clock.wall())
            await asyncio.sleep(_HOUSEKEEPING_EVERY_S)
