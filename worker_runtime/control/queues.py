"""Looking at queues, and changing them while they work."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.feed import Feed
from worker_runtime.engine.slots import Lane
from worker_runtime.errors import ConfigurationError, UnknownQueue
from worker_runtime.model.figures import QueueStatistics
from worker_runtime.model.job import Job
from worker_runtime.model.snapshot import QueueInfo
from worker_runtime.model.states import QUEUED
from worker_runtime.settings import QueueSettings


class QueueControl:
    """All methods raise UnknownQueue for a queue that is not there; see `Runtime` for the rest."""

    def __init__(self, dispatcher: Dispatcher, feed: Feed) -> None:
        self._lanes: Mapping[str, Lane] = dispatcher.lanes
        self._dispatcher = dispatcher
        self._feed = feed

    def pause(self, queue: str) -> None:
        self._lane(queue).is_paused = True

    def resume(self, queue: str) -> None:
        lane = self._lane(queue)
        lane.is_paused = False
        self._dispatcher.wake(lane)
        self._feed.look_again()

    def resize(self, queue: str, *, concurrency: int | None, capacity: int | None) -> None:
        """None leaves a limit as it is. Raises ConfigurationError too."""
        lane = self._lane(queue)
        limits = QueueSettings(queue, concurrency, capacity)
        try:
            msgspec.convert(msgspec.structs.asdict(limits), QueueSettings)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"queue {queue!r}: {error}") from None
        lane.capacity = capacity or lane.capacity
        lane.concurrency = concurrency or lane.concurrency
        self._dispatcher.wake(lane)

    def info(self, queue: str) -> QueueInfo:
        lane = self._lane(queue)
        return QueueInfo(
            lane.name,
            self._feed.waiting(queue),
            lane.busy,
            lane.concurrency,
            lane.capacity,
            lane.is_paused,
        )

    def infos(self) -> list[QueueInfo]:
        return [self.info(name) for name in self._lanes]

    def statistics(self) -> list[QueueStatistics]:
        """As `infos`, with what waits in this process."""
        return [
            QueueStatistics(
                **msgspec.structs.asdict(self.info(name)),
                ready=lane.queue.ready_count,
                scheduled=lane.queue.waiting - lane.queue.ready_count,
            )
            for name, lane in self._lanes.items()
        ]

    def position(self, job: Job) -> int | None:
        return self._lane(job.queue).queue.position(job) if job.state is QUEUED else None

    def _lane(self, queue: str) -> Lane:
        try:
            return self._lanes[queue]
        except KeyError:
            names = ", ".join(self._lanes)
            raise UnknownQueue(f"no queue {queue[:128]!r}; queues: {names}") from None
