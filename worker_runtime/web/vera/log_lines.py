"""The log lines that Vera's guide has for each task: started, and completed after how long."""

from __future__ import annotations

import asyncio
import logging

from worker_runtime.engine.events import Missed
from worker_runtime.model.states import COMPLETED, RUNNING
from worker_runtime.runtime import Runtime

logger = logging.getLogger("worker_runtime.web.vera")

_BUFFER = 10_000


class TaskLog:
    """Follows the runtime's events and logs them at INFO. Failures are logged by the runtime
    itself, with their reason."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._follower: asyncio.Task[None] | None = None
        self._started_at: dict[str, float] = {}

    def open(self) -> None:
        """Follow from now on, where anybody reads it: events cost every job something."""
        if logger.isEnabledFor(logging.INFO):
            self._follower = asyncio.create_task(self._follow(), name="vera-log")

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait((self._follower,))

    async def _follow(self) -> None:
        async with self._runtime.subscribe(buffer=_BUFFER) as events:
            async for event in events:
                if isinstance(event, Missed):
                    self._started_at.clear()
                elif event.state is RUNNING:
                    self._started_at[event.job_id] = event.at
                    logger.info("Task %s started", event.job_id)
                else:
                    started_at = self._started_at.pop(event.job_id, event.at)
                    if event.state is COMPLETED:
                        took_s = max(0.0, event.at - started_at)
                        logger.info("Task %s completed in %.3fs", event.job_id, took_s)
