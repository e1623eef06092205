"""The only place that chooses concrete parts from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from worker_runtime.acceptance.call import Call
from worker_runtime.acceptance.intake import Intake
from worker_runtime.acceptance.keeping import Acceptance
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.acceptance.unique_keys import UniqueKeys
from worker_runtime.clock.source import Clock
from worker_runtime.control.cancellation import Cancellation
from worker_runtime.control.ended_jobs import EndedJobs
from worker_runtime.control.inspection import Inspection
from worker_runtime.control.overview import Overview
from worker_runtime.control.queues import QueueControl
from worker_runtime.engine.attempt import Attempts, Middleware
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.draining import Draining
from worker_runtime.engine.events import EventHub
from worker_runtime.engine.expiry import Expiry
from worker_runtime.engine.feed import Feed, OwnQueues
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.held import HeldJobs
from worker_runtime.engine.lines.limits import Limits
from worker_runtime.engine.lines.priority_queue import AgingQueue, PriorityQueue
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.errors import ConfigurationError
from worker_runtime.executors import Executor
from worker_runtime.executors.loop import LoopExecutor
from worker_runtime.executors.process.parent.pool import ProcessExecutor
from worker_runtime.executors.thread import ThreadExecutor
from worker_runtime.model.bounded import masked
from worker_runtime.model.job import Job
from worker_runtime.model.registry import TaskRegistry, Tasks
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.services.cron import CronService, schedules_of
from worker_runtime.services.forecast import Forecast
from worker_runtime.services.overload import OverloadControl
from worker_runtime.services.resources import Resources
from worker_runtime.services.watchdog import Watchdog
from worker_runtime.settings import QueueSettings, Settings
from worker_runtime.stores.boundary import Store
from worker_runtime.stores.memory import MemoryStore
from worker_runtime.stores.shared import SharedSetup
from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings, parse_url

DEFAULT_QUEUE = "default"
_REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})
_UNBOUNDED = 1 << 53


@dataclass(frozen=True, slots=True)
class Parts:
    """What a runtime is made of."""

    settings: Settings
    registry: TaskRegistry
    table: JobTable
    events: EventHub
    store: Store
    executors: dict[str, Executor]
    lanes: dict[str, Lane]
    attempts: Attempts
    finisher: Finisher
    dispatcher: Dispatcher
    draining: Draining
    intake: Intake
    clock: Clock
    resources: Resources
    overload: OverloadControl
    feed: Feed
    acceptance: Acceptance
    inspection: Inspection
    ended_jobs: EndedJobs
    cancellation: Cancellation
    queues: QueueControl
    cron: CronService
    watchdog: Watchdog
    overview: Overview


def assemble(
    settings: Settings,
    tasks: Tasks,
    middleware: Sequence[Middleware],
    given: Store | SharedSetup[Any] | None = None,
    *,
    clock: Clock | None = None,
) -> Parts:
    """Build the parts and connect them. Nothing is opened yet. `given` is a store, or how to work
    with a shared one; None: the one that the settings name. `clock` is what every part goes by;
    None: the machine's. Raises ConfigurationError."""
    clock = clock or Clock()
    store, setup = _chosen(settings, given)
    registry = TaskRegistry(
        queue=DEFAULT_QUEUE,
        timeout_s=settings.default_task_timeout_s,
        any_name=setup is not None and setup.any_name,
    )
    registry.add_all(tasks)
    known = _queues(settings, registry)
    limits = _limits(known, registry, store, clock)
    lanes = _lanes(settings, known, registry, limits, store, clock)
    executors = _executors(settings, registry, clock)
    has_rates = any(limit and limit.rate for q in known.values() for limit in (q.limit, q.per_key))
    is_plain = store.recorder is None and not middleware and not has_rates
    _place(registry, executors, is_plain=is_plain)
    events = EventHub()
    table = _table(settings, store, clock)
    attempts = Attempts(
        clock,
        middleware=middleware,
        recorder=store.recorder,
        error_bytes_max=settings.error_bytes_max,
        keeps_late_ends=setup is not None and setup.keeps_late_ends,
    )

    def put_back(job: Job) -> None:  # the finisher is made before what it hands jobs back to
        feed.put_back(job)

    finisher = Finisher(
        table,
        events,
        clock,
        recorder=store.recorder,
        outlives_process=store.outlives_process,
        requeue=put_back,
        crashes_max=settings.crashes_max,
        result_bytes_max=settings.result_bytes_max,
        must_encode=store.must_encode_results,
        fleet_counts_tries=setup is not None and setup.tries_max is not None,
    )
    expiry = Expiry(finisher, clock)
    dispatcher = Dispatcher(
        lanes,
        attempts,
        finisher,
        events,
        expiry,
        limits,
        clock,
        abandoned_max=settings.abandoned_max,
    )
    held = HeldJobs(table, finisher, dispatcher, expiry, clock)
    forecast = Forecast(registry, clock)
    overload = _overload(settings, forecast, clock)
    resources = Resources(clock, interval_s=settings.health_check_interval_s)
    resources.listeners.append(overload.observe)
    draining = Draining(dispatcher, finisher)
    unique_keys = UniqueKeys(table, finisher.is_returning)
    intake = Intake(
        registry, table, dispatcher, events, clock, forecast, overload, held, unique_keys, expiry
    )
    feed: Feed = OwnQueues(registry, lanes, table, held, draining, clock)
    if setup is not None:
        feed = _shared_queues(
            setup, registry, lanes, table, intake, dispatcher, draining, finisher, clock, settings
        )
    acceptance = Acceptance(intake, store)
    inspection = Inspection(table, store)
    queues = QueueControl(dispatcher, feed)
    watchdog = Watchdog(dispatcher.job_of_task, clock, warn_s=settings.loop_lag_warn_s)

    async def enqueue_tick(task: TaskDefinition, job_id: str) -> None:
        await acceptance.accept(EnqueueOptions(job_id=job_id), Call(task.name, (), {}))

    return Parts(
        settings=settings,
        registry=registry,
        table=table,
        events=events,
        store=store,
        executors=executors,
        lanes=lanes,
        attempts=attempts,
        finisher=finisher,
        dispatcher=dispatcher,
        draining=draining,
        intake=intake,
        clock=clock,
        resources=resources,
        overload=overload,
        feed=feed,
        acceptance=acceptance,
        inspection=inspection,
        ended_jobs=EndedJobs(inspection, table, store, intake, finisher),
        cancellation=Cancellation(dispatcher, finisher, held, clock, table, store),
        queues=queues,
        cron=CronService(schedules_of(registry), enqueue=enqueue_tick, store=store, clock=clock),
        watchdog=watchdog,
        overview=Overview(
            registry=registry,
            intake=intake,
            queues=queues,
            dispatcher=dispatcher,
            finisher=finisher,
            table=table,
            executors=executors,
            store=store,
            watchdog=watchdog,
        ),
    )


def _chosen(
    settings: Settings, given: Store | SharedSetup[Any] | None
) -> tuple[Store, SharedSetup[Any] | None]:
    """The store, and how to work with it where it hands jobs out."""
    if isinstance(given, SharedSetup):
        return given.store, given
    if given is not None:
        if not hasattr(given, "hands_out"):
            raise ConfigurationError(
                f"store must be a URL such as 'sqlite:///jobs.db', or a Store, not {given!r:.200}"
            )
        return given, SharedSetup(given) if given.hands_out else None
    if settings.store.partition("://")[0] in _REDIS_SCHEMES:
        setup = _redis_setup(settings)
        return setup.store, setup
    return _store(settings), None


def _place(registry: TaskRegistry, executors: dict[str, Executor], *, is_plain: bool) -> None:
    """Give each task its executor, and mark those whose attempts need nothing around the call
    but a deadline; `is_plain`: the runtime itself puts nothing there."""
    for task in registry:
        task.executor = executors[task.run_in]
        task.needs_context = task.needs_context or task.executor.needs_context
        # A rate counts from when the function is called, which only an executor says.
        has_rate = any(limit and limit.rate for limit in (task.limit, task.per_key))
        is_simple = task.run_in == "loop" and not task.needs_context and not has_rate
        task.is_bare = is_plain and is_simple


def _table(settings: Settings, store: Store, clock: Clock) -> JobTable:
    return JobTable(
        clock,
        # A store that hands jobs out has the history of all: a copy here would tell of a former job
        # of the same id.
        history_count_max=0 if store.hands_out else settings.history_count_max,
        history_ttl_s=settings.history_ttl_s,
        waiters_max=settings.waiters_max,
    )


def _overload(settings: Settings, forecast: Forecast, clock: Clock) -> OverloadControl:
    return OverloadControl(
        forecast,
        clock,
        max_cpu_percent=settings.max_cpu_percent,
        max_memory_percent=settings.max_memory_percent,
        sampled_every_s=settings.health_check_interval_s,
    )


def _queues(settings: Settings, registry: TaskRegistry) -> dict[str, QueueSettings]:
    """The queues that settings and tasks name."""
    known = {queue.name: queue for queue in settings.queues}
    for name in (DEFAULT_QUEUE, *(task.queue for task in registry)):
        known.setdefault(name, QueueSettings(name))
    return known


def _limits(
    queues: dict[str, QueueSettings], registry: TaskRegistry, store: Store, clock: Clock
) -> Limits:
    """The limits that queues and tasks have. Raises ConfigurationError for those that cannot work,
    and for aging that cannot."""
    of_queues = {q.name: (q.limit, q.per_key) for q in queues.values() if q.limit or q.per_key}
    has_limits = bool(of_queues) or any(task.is_limited for task in registry)
    if has_limits and "limits" in store.lacks:
        raise ConfigurationError(store.lacks["limits"])
    for queue in queues.values():
        if queue.aging_s is None:
            continue
        if has_limits:
            raise ConfigurationError(
                f"queue {queue.name!r}: aging_s does not work beside limits; leave one of them out"
            )
        if "aging" in store.lacks:
            raise ConfigurationError(f"queue {queue.name!r}: {store.lacks['aging']}")
    return Limits(of_queues, clock)


def _lanes(
    settings: Settings,
    queues: dict[str, QueueSettings],
    registry: TaskRegistry,
    limits: Limits,
    store: Store,
    clock: Clock,
) -> dict[str, Lane]:
    # What waits in the store is counted there.
    capacity = _UNBOUNDED if store.hands_out else settings.queue_capacity
    limited = {task.queue for task in registry if task.is_limited}
    lanes = {}
    for name, queue in queues.items():
        lanes[name] = lane = Lane(
            name,
            concurrency=queue.concurrency or settings.default_concurrency,
            capacity=queue.capacity or capacity,
            queue=_queue(queue, clock),
        )
        if queue.limit or queue.per_key or name in limited:  # others are once such a job comes
            lane.limit(limits)
    return lanes


def _queue(queue: QueueSettings, clock: Clock) -> PriorityQueue:
    return PriorityQueue() if queue.aging_s is None else AgingQueue(queue.aging_s, clock)


def _executors(settings: Settings, registry: TaskRegistry, clock: Clock) -> dict[str, Executor]:
    executors: dict[str, Executor] = {
        "loop": LoopExecutor(stop_grace_s=settings.cancel_grace_s),
        "thread": ThreadExecutor(
            clock,
            size=settings.default_threads,
            abandoned_max=settings.abandoned_max,
            stop_grace_s=settings.cancel_grace_s,
        ),
    }
    in_process = [task for task in registry if task.run_in == "process"]
    if in_process:  # without such tasks nobody pays for children
        limits = settings.process
        if settings.processes is not None:
            limits = msgspec.structs.replace(limits, size_max=settings.processes)
        executors["process"] = ProcessExecutor(in_process, clock, limits)
    return executors


def _redis_setup(settings: Settings) -> SharedSetup[Any]:
    """Imported here, because its library is an extra. Raises ConfigurationError."""
    from worker_runtime.sharing.queues import setup_from

    return setup_from(settings)


def _shared_queues(
    setup: SharedSetup[Any],
    registry: TaskRegistry,
    lanes: dict[str, Lane],
    table: JobTable,
    intake: Intake,
    dispatcher: Dispatcher,
    draining: Draining,
    finisher: Finisher,
    clock: Clock,
    settings: Settings,
) -> Feed:
    from worker_runtime.sharing.queues import SharedQueues

    return SharedQueues(
        setup,
        registry=registry,
        lanes=lanes,
        table=table,
        intake=intake,
        dispatcher=dispatcher,
        draining=draining,
        finisher=finisher,
        clock=clock,
        crashes_max=settings.crashes_max,
    )


def _store(settings: Settings) -> Store:
    scheme = settings.store.partition("://")[0]
    if scheme == "memory":
        return MemoryStore()
    if scheme == "sqlite":
        path, ack = parse_url(settings.store)
        return SqliteStore(
            SqliteStoreSettings(
                path=path,
                ack=ack,
                payload_bytes_max=settings.payload_bytes_max,
                crashes_max=settings.crashes_max,
                kept_count_max=settings.history_count_max,
                kept_ttl_s=settings.history_ttl_s,
            )
        )
    raise ConfigurationError(
        f"store={masked(settings.store)!r} (WORKER_STORE): must be memory://, sqlite:///path or "
        "redis://host"
    )
