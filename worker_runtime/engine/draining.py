"""Wait for the end of the work that is there, and bring about the end of what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.slots import Lane
from worker_runtime.model.states import StopReason


class Draining:
    """Looks at the dispatcher's lanes each time something has ended there."""

    def __init__(self, dispatcher: Dispatcher, finisher: Finisher) -> None:
        self._dispatcher = dispatcher
        self._finisher = finisher

    async def wait_none_running(self) -> None:
        while any(True for _ in self._dispatcher.running()):
            await self._dispatcher.wait_ended()

    async def wait_idle(self) -> None:
        """Wait until nothing runs and nothing waits, scheduled jobs included."""
        await self._wait_until_none(lambda lane: bool(lane.running or lane.queue.waiting))

    async def wait_drained(self, until: float) -> None:
        """Wait until nothing runs and nothing waits that is due before `until` (Unix seconds).
        Paused lanes start nothing, so that their waiting jobs are not waited for."""
        await self._wait_until_none(lambda lane: bool(lane.running or _has_work(lane, until)))

    async def stop(self, within_s: float) -> None:
        """Start nothing more, let running attempts end for `within_s` seconds, then stop them, then
        give them up."""
        dispatcher = self._dispatcher
        dispatcher.quiet()
        if not await self._ended_within(within_s):
            grace_s = 0.0
            for slot in list(dispatcher.running()):
                slot.request_stop(StopReason.SHUTDOWN)
                grace_s = max(grace_s, slot.job.task.executor.stop_grace_s)
            if not await self._ended_within(grace_s + 1.0):  # the deadline watch gives them up
                for slot in list(dispatcher.running()):
                    dispatcher.give_up(slot)
        await dispatcher.close()

    async def _wait_until_none(self, is_busy: Callable[[Lane], bool]) -> None:
        """A job whose outcome is being recorded is in no lane, and may come back to one."""
        while True:
            if any(is_busy(lane) for lane in self._dispatcher.lanes.values()):
                await self._dispatcher.wait_ended()
            elif self._finisher.is_recording:
                await self._finisher.wait_all_shown()
            else:
                return

    async def _ended_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.wait_none_running()
        except TimeoutError:
            return False
        return True


def _has_work(lane: Lane, until: float) -> bool:
    if lane.is_paused:
        return False
    next_due = lane.queue.next_due
    return lane.queue.ready_count > 0 or (next_due is not None and next_due < until)
