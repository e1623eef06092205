"""Every transition of every job, for whoever subscribes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from types import TracebackType

import msgspec

from worker_runtime.model.job import Job
from worker_runtime.model.states import Reason, State

logger = logging.getLogger("worker_runtime.events")

BUFFER_MAX = 100_000


class Event(msgspec.Struct, frozen=True, gc=False):
    """A job entered `state` at `at` (Unix seconds). `reason` only when it failed."""

    job_id: str
    task: str
    queue: str
    state: State
    attempt: int
    at: float
    reason: Reason | None = None


class Missed(msgspec.Struct, frozen=True, gc=False):
    """This subscriber was too slow: `count` events were dropped at this place among them."""

    count: int


class Subscription:
    """An asynchronous iterator over events, in order. Leave the `async with` to unsubscribe."""

    def __init__(self, hub: EventHub, buffer: int) -> None:
        if not 1 <= buffer <= BUFFER_MAX:
            raise ValueError(f"buffer must be between 1 and {BUFFER_MAX}, not {buffer!r}")
        self._hub = hub
        self._buffer = buffer
        self._events: deque[Event] = deque()
        self._missed = 0
        self._arrived = asyncio.Event()
        self._is_closed = False

    async def __aenter__(self) -> Subscription:
        if self._hub.is_closed:
            self.close()
        else:
            self._hub.subscriptions.append(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event | Missed:
        while not self._events:
            if self._missed:
                return self._take_missed()
            if self._is_closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._missed:
            return self._take_missed()
        return self._events.popleft()

    def close(self) -> None:
        """End the iteration after what is already buffered."""
        self._is_closed = True
        self._arrived.set()
        if self in self._hub.subscriptions:
            self._hub.subscriptions.remove(self)

    def put_nowait(self, event: Event) -> None:
        if len(self._events) >= self._buffer:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._arrived.set()

    def _take_missed(self) -> Missed:
        missed, self._missed = Missed(self._missed), 0
        return missed


class EventHub:
    """Hands each event to every subscription. Without one it costs a truth test."""

    __slots__ = ("is_closed", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.is_closed = False

    def emit(self, job: Job, at: float) -> None:
        event = Event(
            job_id=job.id,
            task=job.task.name,
            queue=job.queue,
            state=job.state,
            attempt=job.attempt,
            at=at,
            reason=None if job.failure is None else job.failure.reason,
        )
        for subscription in list(self.subscriptions):
            try:
                subscription.put_nowait(event)
            except Exception as error:  # of its event loop, which is another one and closed
                logger.warning("a subscription to events is ended: %s", error)
                self.subscriptions.remove(subscription)

    def close(self) -> None:
        """End all subscriptions: nothing happens any more."""
        self.is_closed = True
        for subscription in list(self.subscriptions):
            subscription.close()
