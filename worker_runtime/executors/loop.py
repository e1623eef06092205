"""The event loop as an executor: an async function runs in the task that awaits it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from worker_runtime.executors.boundary import Call
from worker_runtime.model.job import call_arguments
from worker_runtime.model.states import StopReason


class LoopExecutor:
    """Runs async functions on the event loop, in the task that awaits them."""

    needs_context = False

    def __init__(self, *, stop_grace_s: float) -> None:
        self.stop_grace_s = stop_grace_s
        self._abandoned = 0

    async def open(self) -> None:
        pass

    def start(self, call: Call) -> Awaitable[Any]:
        call.began()
        job = call.job
        result: Awaitable[Any] = job.task.call(call.context, *call_arguments(job))
        return result

    def stop(self, call: Call, reason: StopReason) -> None:
        if call.context is not None:
            call.context.stop()
        call.interrupt()

    def abandon(self, call: Call) -> None:
        self._abandoned += 1

    def statistics(self) -> dict[str, Any]:
        return {"size": None, "busy": None, "waiting": 0, "abandoned": self._abandoned}

    async def close(self) -> None:
        pass
