"""Where this process's lanes get their jobs from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from worker_runtime.clock.source import Clock
from worker_runtime.engine.draining import Draining
from worker_runtime.engine.held import HeldJobs
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.stores.boundary import Host


class Feed(Protocol):
    """Brings jobs into the lanes, and knows what waits for them."""

    def host(self) -> Host:
        """This process as its store sees it."""
        ...

    async def start(self) -> None:
        """Begin to bring jobs. The store is open."""
        ...

    async def stop(self) -> None:
        """Bring nothing more; give back what did not start."""
        ...

    def put_back(self, job: Job) -> None:
        """A job is to run again: have it wait where jobs wait."""
        ...

    def watch(self, job: Job) -> None:
        """Somebody waits for this job, wherever it runs."""
        ...

    def waiting(self, queue: str) -> int:
        """Jobs that wait in the queue, as far as is known."""
        ...

    def look_again(self) -> None:
        """There may be something to do in every queue."""
        ...

    async def wait_drained(self) -> None:
        """Wait until nothing runs here and nothing waits that this process has to do."""
        ...


class OwnQueues:
    """Jobs are admitted in this process and wait in its own lanes: there is nothing to bring."""

    def __init__(
        self,
        registry: TaskRegistry,
        lanes: Mapping[str, Lane],
        table: JobTable,
        held: HeldJobs,
        draining: Draining,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._lanes = lanes
        self._table = table
        self._held = held
        self._draining = draining
        self._clock = clock

    def host(self) -> Host:
        return Host(
            find_task=self._registry.find_or_park,
            task_names=tuple(task.name for task in self._registry),
            queues=tuple(self._lanes),
            job_here=self._table.jobs.get,
            clock=self._clock,
        )

    async def start(self) -> None:
        """What waits is here since it was accepted or recovered."""

    async def stop(self) -> None:
        """What waits stays, as long as the store keeps it."""

    def put_back(self, job: Job) -> None:
        self._held.submit(job)

    def watch(self, job: Job) -> None:
        """The record that its end is written to is the one that is waited for."""

    def waiting(self, queue: str) -> int:
        return self._lanes[queue].queue.waiting

    def look_again(self) -> None:
        """The dispatcher is woken whenever a lane changes."""

    async def wait_drained(self) -> None:
        await self._draining.wait_idle()
