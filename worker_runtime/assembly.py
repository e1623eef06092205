"""The only place that chooses concrete parts from the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from worker_runtime.acceptance.call import Call
from worker_runtime.acceptance.intake import Intake
from worker_runtime.acceptance.keeping import Acceptance
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.clock.wall import Clock
from worker_runtime.control.cancellation import Cancellation
from worker_runtime.control.ended_jobs import DeadLetters
from worker_runtime.control.inspection import Inspection
from worker_runtime.control.queues import QueueControl
from worker_runtime.engine.attempt import Attempts, Middleware
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.draining import Draining
from worker_runtime.engine.events import EventHub
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.held import HeldJobs
from worker_runtime.engine.lines.limits import LimitedQueue, Limits
from worker_runtime.engine.lines.priority_queue import AgingQueue, PriorityQueue
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.errors import ConfigurationError
from worker_runtime.executors import Executor
from worker_runtime.executors.loop import LoopExecutor
from worker_runtime.executors.process.parent.pool import ProcessExecutor
from worker_runtime.executors.thread import ThreadExecutor
from worker_runtime.model.job import Job
from worker_runtime.model.registry import TaskRegistry, Tasks
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.services.cron import CronService, schedules_of
from worker_runtime.services.forecast import Forecast
from worker_runtime.services.overload import OverloadControl
from worker_runtime.services.resources import Resources
from worker_runtime.services.watchdog import Watchdog
from worker_runtime.settings import QueueSettings, Settings
from worker_runtime.stores import Archive, Store
from worker_runtime.stores.shared import SharedJobs, SharedSetup
from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings, parse_url

DEFAULT_QUEUE = "default"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a runtime is made of."""

    settings: Settings
    registry: TaskRegistry
    table: JobTable
    events: EventHub
    store: Store | None
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
    archive: Archive | None
    shared: SharedJobs | None
    acceptance: Acceptance
    inspection: Inspection
    dead_letters: DeadLetters
    cancellation: Cancellation
    queues: QueueControl
    cron: CronService
    watchdog: Watchdog


def assemble(
    settings: Settings,
    tasks: Tasks,
    middleware: Sequence[Middleware],
    setup: SharedSetup[Any] | None = None,
) -> Parts:
    """Build the parts and connect them. Nothing is opened yet. Raises ConfigurationError."""
    registry = TaskRegistry(
        queue=DEFAULT_QUEUE,
        timeout_s=settings.default_task_timeout_s,
        any_name=setup is not None and setup.any_name,
    )
    registry.add_all(tasks)
    setup = setup or _shared_setup(settings)
    lanes = _lanes(settings, registry, is_shared=setup is not None)
    store = _store(settings) if setup is None else setup.store
    executors = _executors(settings, registry)
    _place(registry, executors, is_plain=store is None and not middleware)
    clock, events = Clock(), EventHub()
    table = _table(settings, setup)
    attempts = _attempts(settings, middleware, store, setup)

    def requeue(job: Job) -> None:  # the finisher is made before what it hands jobs back to
        if setup is None:
            held.submit(job)
        else:  # it waits in the store, for whoever is free first
            table.forget(job)

    finisher = _finisher(settings, table, events, store, setup, requeue)
    dispatcher = Dispatcher(
        lanes, attempts, finisher, events, clock, abandoned_max=settings.abandoned_max
    )
    held = HeldJobs(table, finisher, dispatcher, clock)
    forecast = Forecast(registry)
    overload = _overload(settings, forecast)
    resources = Resources(interval_s=settings.health_check_interval_s)
    resources.listeners.append(overload.observe)
    draining = Draining(dispatcher, finisher)
    intake = Intake(registry, table, dispatcher, events, clock, forecast, overload, held)
    shared = None
    if setup is not None:
        shared = _shared_queues(
            setup,
            registry=registry,
            lanes=lanes,
            table=table,
            events=events,
            intake=intake,
            dispatcher=dispatcher,
            draining=draining,
            finisher=finisher,
            crashes_max=settings.crashes_max,
        )
    archive = store if isinstance(store, Archive) else None
    acceptance = Acceptance(intake, store, shared)
    inspection = Inspection(table, store, archive, shared)

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
        archive=archive,
        shared=shared,
        acceptance=acceptance,
        inspection=inspection,
        dead_letters=DeadLetters(inspection, table, archive, intake, finisher, shared),
        cancellation=Cancellation(dispatcher, finisher, held, clock, shared),
        queues=QueueControl(dispatcher, shared),
        cron=CronService(schedules_of(registry), enqueue=enqueue_tick, store=store),
        watchdog=Watchdog(dispatcher.job_of_task, warn_s=settings.loop_lag_warn_s),
    )


def _place(registry: TaskRegistry, executors: dict[str, Executor], *, is_plain: bool) -> None:
    """Give each task its executor, and mark those whose attempts need nothing around the call
    but a deadline; `is_plain`: the runtime itself puts nothing there."""
    for task in registry:
        task.executor = executors[task.run_in]
        task.needs_context = task.needs_context or task.executor.needs_context
        task.is_bare = is_plain and task.run_in == "loop" and not task.needs_context


def _table(settings: Settings, setup: SharedSetup[Any] | None) -> JobTable:
    return JobTable(
        # A shared store has the history; a copy here would tell of a former job of the same id.
        history_count_max=settings.history_count_max if setup is None else 0,
        history_ttl_s=settings.history_ttl_s,
        waiters_max=settings.waiters_max,
    )


def _attempts(
    settings: Settings,
    middleware: Sequence[Middleware],
    store: Store | None,
    setup: SharedSetup[Any] | None,
) -> Attempts:
    return Attempts(
        middleware=middleware,
        store=store,
        error_bytes_max=settings.error_bytes_max,
        keeps_late_ends=setup is not None and setup.keeps_late_ends,
    )


def _finisher(
    settings: Settings,
    table: JobTable,
    events: EventHub,
    store: Store | None,
    setup: SharedSetup[Any] | None,
    requeue: Callable[[Job], None],
) -> Finisher:
    return Finisher(
        table,
        events,
        store=store,
        requeue=requeue,
        crashes_max=settings.crashes_max,
        result_bytes_max=settings.result_bytes_max,
        must_encode=store is not None and (setup is None or setup.store.must_encode_results),
    )


def _overload(settings: Settings, forecast: Forecast) -> OverloadControl:
    return OverloadControl(
        forecast,
        max_cpu_percent=settings.max_cpu_percent,
        max_memory_percent=settings.max_memory_percent,
        sampled_every_s=settings.health_check_interval_s,
    )


def _lanes(settings: Settings, registry: TaskRegistry, *, is_shared: bool) -> dict[str, Lane]:
    known = {queue.name: queue for queue in settings.queues}
    for name in (DEFAULT_QUEUE, *(task.queue for task in registry)):
        known.setdefault(name, QueueSettings(name))
    limits = _limits(known, registry)
    if limits is not None and is_shared:
        raise ConfigurationError(
            "limits of queues, tasks and keys do not work with a Redis store, where other workers "
            "start jobs too; leave limit and per_key out"
        )
    return {
        name: Lane(
            name,
            concurrency=queue.concurrency or settings.default_concurrency,
            capacity=queue.capacity or settings.queue_capacity,
            queue=_queue(queue, limits),
        )
        for name, queue in known.items()
    }


def _queue(queue: QueueSettings, limits: Limits | None) -> PriorityQueue:
    if limits is not None:
        return LimitedQueue(limits)
    return PriorityQueue() if queue.aging_s is None else AgingQueue(queue.aging_s)


def _limits(queues: dict[str, QueueSettings], registry: TaskRegistry) -> Limits | None:
    """The limits that queues and tasks have; None where none has any."""
    of_queues = {q.name: (q.limit, q.per_key) for q in queues.values() if q.limit or q.per_key}
    if not of_queues and not any(task.limit or task.per_key for task in registry):
        return None
    for queue in queues.values():
        if queue.aging_s is not None:
            raise ConfigurationError(
                f"queue {queue.name!r}: aging_s does not work beside limits; leave one of them out"
            )
    return Limits(of_queues)


def _executors(settings: Settings, registry: TaskRegistry) -> dict[str, Executor]:
    executors: dict[str, Executor] = {
        "loop": LoopExecutor(stop_grace_s=settings.cancel_grace_s),
        "thread": ThreadExecutor(
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
        executors["process"] = ProcessExecutor(in_process, limits)
    return executors


def _shared_setup(settings: Settings) -> SharedSetup[Any] | None:
    """The setup of a Redis store; imported here, because its library is an extra."""
    if settings.store.partition("://")[0] not in ("redis", "rediss", "unix"):
        return None
    from worker_runtime.sharing.queues import setup_from

    return setup_from(settings)


def _shared_queues(setup: SharedSetup[Any], **parts: Any) -> SharedJobs:
    from worker_runtime.sharing.queues import SharedQueues

    return SharedQueues(setup, **parts)


def _store(settings: Settings) -> Store | None:
    scheme = settings.store.partition("://")[0]
    if scheme == "memory":
        return None
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
        f"store={settings.store!r} (WORKER_STORE): must be memory://, sqlite:///path or redis://host"
    )
