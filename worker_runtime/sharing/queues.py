"""Work with a store that other processes use too: jobs wait there, not in this process."""

from __future__ import annotations

from worker_runtime.acceptance.intake import Intake
from worker_runtime.clock.source import Clock
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.draining import Draining
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.settings import Settings
from worker_runtime.sharing.claimed import ClaimedJobs
from worker_runtime.sharing.claimer import Claimer
from worker_runtime.sharing.health_key import HealthKey
from worker_runtime.sharing.watched import WatchedJobs
from worker_runtime.stores.boundary import Host
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.shared import SharedSetup


def setup_from(settings: Settings) -> SharedSetup[RedisStore]:
    """The setup that `settings.store` names. Raises ConfigurationError."""
    store = RedisStore.from_url(
        settings.store,
        payload_bytes_max=settings.payload_bytes_max,
        result_ttl_s=settings.history_ttl_s,
        capacities={q.name: q.capacity for q in settings.queues if q.capacity},
    )
    return SharedSetup(store, health_every_s=settings.health_check_interval_s)


class SharedQueues:
    """A runtime's side of a shared store: it is fed from it, and knows what waits there."""

    def __init__(
        self,
        setup: SharedSetup[RedisStore],
        *,
        registry: TaskRegistry,
        lanes: dict[str, Lane],
        table: JobTable,
        intake: Intake,
        dispatcher: Dispatcher,
        draining: Draining,
        finisher: Finisher,
        clock: Clock,
        crashes_max: int,
    ) -> None:
        self.store = store = setup.store
        self._registry = registry
        self._table = table
        self._clock = clock
        served = {n: lane for n, lane in lanes.items() if not setup.serves or n in setup.serves}
        self._served = tuple(served)
        self.watched = WatchedJobs(store, table)
        self.claimed = ClaimedJobs(
            store,
            registry,
            table,
            self.watched,
            intake,
            dispatcher,
            finisher,
            clock,
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
            self.watched,
            self.claimed,
            clock,
            poll_max_s=setup.poll_max_s,
            aborts=setup.aborts,
            jobs_max=setup.jobs_max,
        )
        self.health = HealthKey(store, served, clock, setup.health_every_s, setup.health_key)

    def host(self) -> Host:
        return Host(
            find_task=self._registry.find_or_park,
            task_names=tuple(task.name for task in self._registry),
            queues=self._served,
            job_here=self._table.jobs.get,
            remember=self.watched.remember,
            on_room=self.claimer.has_room,
            on_lost=self.claimer.lost,
            clock=self._clock,
        )

    async def start(self) -> None:
        """Begin to take jobs. The store is open."""
        await self.health.start()
        self.claimer.start()

    async def stop(self) -> None:
        """Take nothing more; give back what did not start."""
        await self.claimer.stop()
        await self.health.stop()
        await self.watched.stop()

    def put_back(self, job: Job) -> None:
        self.watched.put_back(job)

    def watch(self, job: Job) -> None:
        """Somebody waits for this job, wherever it runs."""
        if self._table.jobs.get(job.id) is not job and not job.is_ended:
            self.watched.watch(job)

    def look_again(self) -> None:
        self.claimer.wake()

    async def wait_drained(self) -> None:
        await self.claimer.wait_drained()

    def waiting(self, queue: str) -> int:
        """Jobs in the queue when it was last looked into, those that run here left out."""
        running = sum(1 for j in self._table.jobs.values() if j.queue == queue)
        return max(0, self.claimer.waiting.get(queue, 0) - running)
