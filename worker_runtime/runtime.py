"""The runtime: what an application holds. Everything it does is done by the parts it holds."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from worker_runtime.acceptance.call import Call, TaskRef
from worker_runtime.acceptance.chain import enqueue_chain, find_chain
from worker_runtime.acceptance.enqueuer import ConfiguredEnqueuer, Enqueuer
from worker_runtime.acceptance.handle import JobHandle, WorkflowHandle
from worker_runtime.acceptance.intake import PLAIN
from worker_runtime.acceptance.options import given_options, handles_in
from worker_runtime.acceptance.transaction import Transaction
from worker_runtime.assembly import assemble
from worker_runtime.control.ended_jobs import BulkResult
from worker_runtime.doorway import Doorway
from worker_runtime.engine.attempt import Middleware
from worker_runtime.engine.events import Subscription
from worker_runtime.errors import ConfigurationError
from worker_runtime.lifecycle import Lifecycle
from worker_runtime.model.figures import RuntimeStatistics
from worker_runtime.model.filter import JobFilter, states_of
from worker_runtime.model.job import Job
from worker_runtime.model.registry import Tasks
from worker_runtime.model.snapshot import JobDetail, JobPage, QueueInfo, detail_of
from worker_runtime.model.states import RETRYABLE_STATES, TERMINAL_STATES, Priority, State
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.services.cron import CronInfo
from worker_runtime.settings import QueueSettings, Settings, checked
from worker_runtime.stores.boundary import Store, waits_here
from worker_runtime.stores.shared import SharedSetup

logger = logging.getLogger("worker_runtime")

Lifespan = Callable[["Runtime"], AbstractAsyncContextManager[Any]]


class Runtime(Enqueuer):
    """An embeddable job runtime; use it as `async with Runtime([...]) as runtime`.

    tasks           functions, marked with `@task` or plain, or a mapping of names to functions
    concurrency     attempts at a time in each queue that does not say otherwise
    queue_capacity  jobs that may wait in each queue that does not say otherwise
    threads         threads for sync functions
    processes       child processes for `run_in="process"` tasks
    store           `memory://`, `sqlite:///path` or `redis://...`; or a Store, or a SharedSetup
    queues          settings of named queues; a queue that a task names exists anyway
    settings        everything else; read from the environment where it is not given
    lifespan        async context manager entered before the first job; contexts carry its value
    middleware      wrappers around each attempt, `async def wrap(ctx, call_next)` that return what
                    `await call_next()` returns; the first one is outermost

    What is passed here wins over `settings`, and those over the environment. Belongs to the event
    loop it is started in; other threads call it with `asyncio.run_coroutine_threadsafe`. Raises
    ConfigurationError for what cannot work.
    """

    def __init__(
        self,
        tasks: Tasks = (),
        *,
        concurrency: int | None = None,
        queue_capacity: int | None = None,
        threads: int | None = None,
        processes: int | None = None,
        store: str | Store | SharedSetup[Any] | None = None,
        queues: Iterable[QueueSettings] | None = None,
        settings: Settings | None = None,
        lifespan: Lifespan | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        explicit: dict[str, Any] = {
            "concurrency": concurrency,
            "queue_capacity": queue_capacity,
            "threads": threads,
            "processes": processes,
            "store": store if isinstance(store, str) else None,
            "queues": None if queues is None else tuple(queues),
        }
        if settings is None:
            settings = Settings.from_environment(**explicit)
        else:
            settings = checked(settings, **{k: v for k, v in explicit.items() if v is not None})
        for name, given in (("lifespan", lifespan), *(("middleware", each) for each in middleware)):
            if given is not None and not callable(given):
                raise ConfigurationError(f"{name} must be a function, not {given!r:.200}")
        self.settings = settings
        kept_in = None if isinstance(store, str) else store
        self.parts = parts = assemble(settings, tasks, middleware, kept_in)
        self.doorway = Doorway(parts)
        self._life = Lifecycle(parts, None if lifespan is None else lambda: lifespan(self))
        self._intake = parts.intake
        self._acceptance = parts.acceptance
        self._is_direct = waits_here(parts.store)
        self._keeps = parts.store.recorder is not None

    # Life

    async def __aenter__(self) -> Runtime:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the parts, bring back stored jobs, and begin to run. Raises ConfigurationError."""
        await self._life.start()

    async def stop(self, within_s: float | None = None) -> None:
        """Stop: accept and start nothing more, let running jobs end for `within_s` seconds, then
        cancel them, then give them up. Waiting jobs stay in a durable store; in memory they end as
        cancelled. Stopping twice, or before the start, is harmless."""
        await self._life.stop(self.settings.stop_within_s if within_s is None else within_s)

    def quiet(self) -> None:
        """Accept and start nothing more; running jobs go on."""
        self._life.quiet()

    async def drain(self, within_s: float) -> bool:
        """Accept nothing more, and run what waits for at most `within_s` seconds.

        For a runtime whose waiting jobs would be lost with it. True: nothing is left that is due by
        then. Call `stop` afterwards.
        """
        return await self._life.drain(within_s)

    async def join(self) -> None:
        """Wait until no job waits or runs."""
        await self._life.join()

    @property
    def is_accepting(self) -> bool:
        """Whether new jobs are taken: between the start and `quiet`, `drain` or `stop`."""
        return self._intake.is_open

    @property
    def started_at(self) -> float | None:
        """When it was started, in Unix seconds; None before."""
        return self._life.started_at

    # Enqueue

    if not TYPE_CHECKING:  # typed by the overloads it inherits; without their second call here

        async def enqueue(self, task: TaskRef, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
            if not self._is_direct:
                return await self._enqueue(task, args, kwargs)
            job = self._intake.accept(task, args, kwargs)
            if self._keeps:
                await self._acceptance.keep(job)
            return JobHandle(job, self.doorway)

    async def _enqueue(
        self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> JobHandle[Any]:  # the plain way of what `enqueue` above does in fewer calls
        return await self.doorway.enqueue_with(PLAIN, task, args, kwargs)

    async def _enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        return await self.doorway.enqueue_many_with(PLAIN, calls)

    def options(
        self,
        *,
        job_id: str | None = None,
        queue: str | None = None,
        priority: Priority | None = None,
        delay_s: float | None = None,
        at: datetime | None = None,
        timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        retry: Retry | msgspec.UnsetType | None = msgspec.UNSET,
        result_ttl_s: float | msgspec.UnsetType = msgspec.UNSET,
        expires_s: float | None = None,
        label: str | None = None,
        key: str | None = None,
        unique_key: str | None = None,
        unique_for_s: float | None = None,
        unique_states: Iterable[State] | None = None,
        after: Sequence[JobHandle[Any]] = (),
    ) -> ConfiguredEnqueuer:
        """An enqueuer for jobs that differ from their task's policy; docs/job_options.md has each
        option with its range.

        `delay_s` or `at` (an aware datetime) say when the job becomes due; a job that has not
        started within `expires_s` seconds fails as `expired`. Both count from each enqueue.
        `key` names the party whose limits count. With `unique_key`, an unfinished job of that key
        (with `unique_for_s`, also one accepted or completed in that time; `unique_states` says
        which states count) is what `enqueue` returns, its `is_new` False. The job waits until those
        in `after` have completed, and is cancelled when one of them fails. Raises InvalidJob.
        """
        parents = () if after == () else handles_in(after)
        given = {
            "job_id": job_id,
            "queue": queue,
            "priority": priority,
            "delay_s": delay_s,
            "at": at,
            "timeout_s": timeout_s,
            "retry": retry,
            "result_ttl_s": result_ttl_s,
            "expires_s": expires_s,
            "label": label,
            "key": key,
            "unique_key": unique_key,
            "unique_for_s": unique_for_s,
            "unique_states": unique_states,
            "after": tuple([parent.id for parent in parents]),
        }
        options = given_options(self.doorway.clock, given, parents)
        make_again = options.now if options.are_relative else None
        return ConfiguredEnqueuer(self.doorway, options.now(), make_again)

    @asynccontextmanager
    async def transaction(self, *, timeout_s: float = 5.0) -> AsyncIterator[Transaction]:
        """A transaction on the store's file for the application's own tables and for new jobs.

        One at a time; rolled back when it is open for longer than `timeout_s`. Raises
        ConfigurationError without an SQLite store, StoreUnavailable when there is no space,
        TransactionExpired.
        """
        store = self.parts.store
        async with store.transaction(timeout_s) as session:
            yield Transaction(self.doorway, self._intake, store, session)

    # Workflows

    async def chain(
        self, *steps: Call[Any] | Sequence[Call[Any]], workflow_id: str | None = None
    ) -> WorkflowHandle:
        """Accept jobs that run one step after another, all of them or none.

        A step is a `call(...)` or `step(...)`, or a list of them that run side by side. Each job of
        a step gets the result of the step before it (of a list: a list of results, in its order) as
        one more, first argument. When a job fails or is cancelled, what comes after it is
        cancelled. Raises Refused.
        """
        return await enqueue_chain(self.doorway, steps, workflow_id)

    async def group(self, *calls: Call[Any], workflow_id: str | None = None) -> WorkflowHandle:
        """Accept jobs that run side by side, all of them or none. Raises Refused."""
        return await enqueue_chain(self.doorway, [calls], workflow_id)

    async def workflow(self, workflow_id: str) -> WorkflowHandle:
        """The handle of a kept workflow. Raises UnknownJob."""
        return await find_chain(self.doorway, workflow_id)

    # Look, wait, act

    @property
    def tasks(self) -> list[TaskDefinition]:
        """What can be run here."""
        return list(self.parts.registry)

    async def find(self, job_id: str) -> JobHandle[Any]:
        """The handle of a kept job. Raises UnknownJob."""
        return await self.doorway.find(job_id)

    async def job(self, job_id: str) -> Job:
        """The record of a kept job, from memory or the store. Raises UnknownJob."""
        return await self.parts.inspection.job(job_id)

    async def inspect(self, job_id: str) -> JobDetail:
        """A snapshot of a kept job with all its attempts. Raises UnknownJob."""
        return detail_of(await self.job(job_id))

    async def list_jobs(
        self,
        *,
        state: State | Iterable[State] | None = None,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> JobPage:
        """Up to `limit` (1 to 1,000) jobs that match, newest first; also those that have ended and
        are only in the store. Raises InvalidJob, StoreUnavailable."""
        wanted = JobFilter(states_of(state), queue, task)
        return await self.parts.inspection.page(wanted, limit=limit, cursor=cursor)

    async def cancel(self, job_id: str, message: str = "") -> bool:
        """Cancel a job. True: a waiting one has ended and never runs, a running one was told to
        stop. False: it had ended already. Raises UnknownJob."""
        return await self.doorway.cancel(job_id, message)

    async def retry(self, job_id: str) -> JobHandle[Any]:
        """Run a failed or cancelled job again, under the same id and with a fresh retry budget.

        The one way out of a terminal state, and only on request. Raises UnknownJob,
        InvalidTransition (also where a parent of the job has not completed), Unavailable.
        """
        job = await self.parts.ended_jobs.retry(await self.job(job_id))
        return JobHandle(job, self.doorway, is_new=False)

    async def retry_many(
        self,
        *,
        state: State | Iterable[State] = State.FAILED,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 1000,
    ) -> BulkResult:
        """Run up to `limit` (1 to 1,000) failed (or also cancelled) jobs that match again, newest
        first, as far as their queues have room. Those that `retry` would refuse are passed over."""
        wanted = JobFilter(states_of(state, RETRYABLE_STATES), queue, task)
        return await self.parts.ended_jobs.retry_many(wanted, limit)

    async def delete(self, job_id: str) -> None:
        """Forget an ended job. Raises UnknownJob, InvalidTransition for one that has not ended."""
        await self.parts.ended_jobs.delete(await self.job(job_id))

    async def delete_many(
        self,
        *,
        state: State | Iterable[State],
        queue: str | None = None,
        task: str | None = None,
        limit: int = 1000,
    ) -> BulkResult:
        """Forget up to `limit` (1 to 1,000) ended jobs that match, newest first."""
        wanted = JobFilter(states_of(state, TERMINAL_STATES), queue, task)
        return await self.parts.ended_jobs.delete_many(wanted, limit)

    def pause(self, queue: str) -> None:
        """Start nothing more from `queue`; it goes on accepting. Raises UnknownQueue."""
        self.parts.queues.pause(queue)

    def resume(self, queue: str) -> None:
        """Undo `pause`. Raises UnknownQueue."""
        self.parts.queues.resume(queue)

    def resize(
        self, queue: str, *, concurrency: int | None = None, capacity: int | None = None
    ) -> None:
        """Change a queue's limits while it works; None leaves one as it is. What runs or waits
        beyond a smaller limit stays. Raises UnknownQueue, ConfigurationError."""
        self.parts.queues.resize(queue, concurrency=concurrency, capacity=capacity)

    def queue_info(self, queue: str) -> QueueInfo:
        """Figures of one queue. Raises UnknownQueue."""
        return self.parts.queues.info(queue)

    def queue_infos(self) -> list[QueueInfo]:
        """Figures of every queue."""
        return self.parts.queues.infos()

    def statistics(self) -> RuntimeStatistics:
        """What the runtime, its queues, its executors and its store measure, at this moment."""
        return self.parts.overview.statistics()

    def position(self, job: Job) -> int | None:
        """The job's place in line, 1 for the next to start; None when it is not ready."""
        return self.parts.queues.position(job)

    def crons(self) -> list[CronInfo]:
        """The cron schedules, with their last and next ticks."""
        return [schedule.info() for schedule in self.parts.cron.schedules]

    def subscribe(self, *, buffer: int = 1000) -> Subscription:
        """Every transition of every job: `async with runtime.subscribe() as events: async for ...`.

        A subscriber more than `buffer` events behind loses the oldest and gets a `Missed` with
        their number."""
        return Subscription(self.parts.events, buffer)

    @property
    def loop_lag_s(self) -> float:
        """How late the event loop ran what was due, at the last measurement."""
        return self.parts.watchdog.lag_s

    @property
    def loop_blocked_count(self) -> int:
        """How often the event loop was blocked for longer than `loop_lag_warn_s`."""
        return self.parts.watchdog.blocked_count
