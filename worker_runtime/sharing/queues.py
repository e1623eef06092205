"""Work with a store that other processes use too: jobs wait there, not in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from worker_runtime.acceptance.intake import Intake
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.draining import Draining
from worker_runtime.engine.events import EventHub
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.errors import ConfigurationError, InvalidTransition
from worker_runtime.model.job import Job
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.settings import Settings
from worker_runtime.sharing.claimed import Admission
from worker_runtime.sharing.claimer import Claimer
from worker_runtime.sharing.health_key import HealthKey
from worker_runtime.sharing.watched import WatchedJobs
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.shared import SharedSetup

_UNBOUNDED = 1 << 53


def setup_from(settings: Settings) -> SharedSetup[RedisStore]:
    """The setup that `settings.store` names. Raises ConfigurationError."""
    for queue in settings.queues:
        if queue.aging_s is not None:
            raise ConfigurationError(
                f"queue {queue.name!r}: aging_s cannot work with a Redis store, where each "
                "priority is a line of its own; leave it out"
            )
    store = RedisStore.from_url(
        settings.store,
        payload_bytes_max=settings.payload_bytes_max,
        result_ttl_s=settings.history_ttl_s,
    )
    store.capacities = {q.name: q.capacity for q in settings.queues if q.capacity}
    return SharedSetup(store, health_every_s=settings.health_check_interval_s)


class SharedQueues:
    """A runtime's side of a shared store: enqueue to it, be fed from it, see what is in it."""

    def __init__(
        self,
        setup: SharedSetup[RedisStore],
        *,
        registry: TaskRegistry,
        lanes: dict[str, Lane],
        table: JobTable,
        events: EventHub,
        intake: Intake,
        dispatcher: Dispatcher,
        draining: Draining,
        finisher: Finisher,
        crashes_max: int,
    ) -> None:
        self.store = store = setup.store
        self._registry = registry
        self._table = table
        self._events = events
        self._intake = intake
        for lane in lanes.values():  # what waits is in the store, and counted there
            lane.capacity = store.capacities.get(lane.name, _UNBOUNDED)
        served = {n: lane for n, lane in lanes.items() if not setup.serves or n in setup.serves}
        self._lines = [(name, int(p), key) for name in served for p, key in store.keys(name)]
        self.watched = WatchedJobs(store, table)
        self.admission = Admission(
            store,
            registry,
            table,
            self.watched,
            intake,
            dispatcher,
            finisher,
            tries_max=setup.tries_max,
            crashes_max=crashes_max,
            aborts=setup.aborts,
            leaves_unknown=setup.leaves_unknown,
        )
        self.claimer = Claimer(
            store,
            served,
            dispatcher,
            draining,
            table,
            self.admission,
            poll_max_s=setup.poll_max_s,
            aborts=setup.aborts,
            jobs_max=setup.jobs_max,
        )
        self.health = HealthKey(store, served, setup.health_every_s, setup.health_key)

    async def start(self) -> None:
        """Begin to take jobs. The store is open."""
        self.store.set_functions(task.name for task in self._registry)
        self.store.lookup.lines = self._lines
        await self.health.start()
        self.claimer.start()

    async def stop(self) -> None:
        """Take nothing more; give back what did not start."""
        await self.claimer.stop()
        await self.health.stop()
        await self.watched.stop()

    async def enqueue(self, jobs: Sequence[Job]) -> list[tuple[Job, bool]]:
        """Put jobs into the store. For each: its record, and whether it is new. Raises Refused;
        JobConflict where the id belongs to a job with another payload."""
        answers = await self.store.enqueue(jobs)
        records: list[tuple[Job, bool]] = []
        for job, is_new in zip(jobs, answers, strict=True):
            if is_new:
                job.task.tally.accepted += 1
                if self._events.subscriptions:
                    self._events.emit(job, job.created_at)
                self.watched.remember(job)
                records.append((job, True))
            else:
                records.append((await self._known(job), False))
        return records

    async def _known(self, job: Job) -> Job:
        known = self._table.jobs.get(job.id) or await self.store.find(job.id)
        if known is None:  # it ended and was forgotten in this very moment
            [is_new] = await self.store.enqueue([job])
            return job if is_new else await self._known(job)
        self._intake.check_same(known, job)
        return known

    def watch(self, job: Job) -> None:
        """Somebody waits for this job, wherever it runs."""
        if self._table.jobs.get(job.id) is not job and not job.is_ended:
            self.watched.watch(job)

    def look_again(self) -> None:
        self.claimer.wake()

    async def wait_drained(self) -> None:
        await self.claimer.wait_drained()

    def is_here(self, job: Job) -> bool:
        return job.id in self._table.jobs

    async def cancel(self, job: Job, message: str) -> bool:
        ttl_ms = self.store.manner.result_ttl_ms(job)
        return await self.store.lookup.cancel(job, message, 1000 if ttl_ms is None else ttl_ms)

    async def retry(self, job: Job) -> Job:
        """Raises InvalidTransition where it waits or runs again already."""
        if not await self.store.lookup.retry(job, self.store.key_of(job)):
            raise InvalidTransition(f"job {job.id} waits or runs again already")
        return await self.store.find(job.id) or job

    async def page(
        self, matches: Callable[[Job], bool], *, limit: int, below: int | None
    ) -> tuple[list[Job], str | None]:
        """As `Lookup.page`; what runs here is shown as it is here."""
        here = self._table.jobs

        def current(job: Job) -> bool:
            return matches(here.get(job.id, job))

        jobs, cursor = await self.store.lookup.page(current, limit=limit, below=below)
        return [here.get(job.id, job) for job in jobs], cursor

    def waiting(self, queue: str) -> int:
        """Jobs in the queue when it was last looked into, those that run here left out."""
        running = sum(1 for j in self._table.jobs.values() if j.queue == queue)
        return max(0, self.claimer.waiting.get(queue, 0) - running)

    def statistics(self) -> dict[str, Any]:
        return {
            **self.store.statistics(),
            "claimed": self.claimer.claimed_count,
            "dead_letters": self.admission.dead_count,
            "at": time.time(),
        }
