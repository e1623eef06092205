"""The runtime: what an application holds. Everything it does is done by the parts it holds."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from worker_runtime.acceptance.call import Call, TaskRef
from worker_runtime.acceptance.chain import enqueue_chain, find_chain
from worker_runtime.acceptance.enqueuer import ConfiguredEnqueuer, Enqueuer
from worker_runtime.acceptance.handle import JobHandle, WorkflowHandle
from worker_runtime.acceptance.intake import PLAIN
from worker_runtime.acceptance.keeping import Acceptance
from worker_runtime.acceptance.options import EnqueueOptions, enqueue_options, handles_in
from worker_runtime.acceptance.transaction import Transaction
from worker_runtime.assembly import assemble
from worker_runtime.control.cancellation import Cancellation
from worker_runtime.control.ended_jobs import RETRYABLE_STATES, BulkResult, DeadLetters
from worker_runtime.control.inspection import Inspection, JobFilter, states_of
from worker_runtime.control.queues import QueueControl
from worker_runtime.control.recovery import recover
from worker_runtime.engine.attempt import Middleware
from worker_runtime.engine.events import Subscription
from worker_runtime.errors import ConfigurationError, WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.model.registry import Tasks
from worker_runtime.model.snapshot import JobDetail, JobPage, QueueInfo, detail_of
from worker_runtime.model.states import TERMINAL_STATES, Priority, State
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.services.cron import CronInfo, CronService
from worker_runtime.services.watchdog import Watchdog
from worker_runtime.settings import QueueSettings, Settings, checked
from worker_runtime.stores import Archive
from worker_runtime.stores.shared import SharedSetup
from worker_runtime.stores.sqlite.store import SqliteStore

logger = logging.getLogger("worker_runtime")

Lifespan = Callable[["Runtime"], AbstractAsyncContextManager[Any]]


class Runtime(Enqueuer):
    """An embeddable job runtime; use it as `async with Runtime([...]) as runtime`.

    tasks           functions, marked with `@task` or plain, or a mapping of names to functions
    concurrency     attempts at a time in each queue that does not say otherwise
    queue_capacity  jobs that may wait in each queue that does not say otherwise
    threads         threads for sync functions
    processes       child processes for `run_in="process"` tasks
    store           `memory://`, `sqlite:///path` or `redis://...`; or a SharedSetup
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
        store: str | SharedSetup[Any] | None = None,
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
        setup = None if store is None or isinstance(store, str) else store
        self.parts = assemble(settings, tasks, middleware, setup)
        self.started_at: float | None = None
        self._intake = self.parts.intake
        self._store = self.parts.store
        self._shared = self.parts.shared
        self._lifespan = lifespan
        self._exits = AsyncExitStack()
        parts = self.parts
        archive = self._store if isinstance(self._store, Archive) else None
        shared = self._shared
        self._acceptance = Acceptance(self._intake, self._store, shared)
        self._inspection = Inspection(parts.table, self._store, archive, shared)
        self._dead_letters = DeadLetters(
            self._inspection, parts.table, archive, self._intake, parts.finisher, shared
        )
        self._cancellation = Cancellation(
            parts.dispatcher, parts.finisher, self._intake.held, parts.clock, shared
        )
        self._queues = QueueControl(parts.dispatcher, shared)
        self._cron = CronService(parts.schedules, enqueue=self._enqueue_tick, store=self._store)
        self._watchdog = Watchdog(parts.dispatcher.job_of_task, warn_s=settings.loop_lag_warn_s)

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
        if self.started_at is not None:
            raise ConfigurationError("this runtime was started before; make a new one")
        self.started_at = time.time()
        parts = self.parts
        try:
            for executor in parts.executors.values():
                await executor.open()
                self._exits.push_async_callback(executor.close)
            if self._lifespan is not None:
                parts.attempts.state = await self._exits.enter_async_context(self._lifespan(self))
            if self._store is not None:
                await self._store.open()
                self._exits.push_async_callback(self._store.close)
                await recover(self._store, self._intake, parts.registry, self._inspection)
            if self._shared is not None:
                await self._shared.start()
                self._exits.push_async_callback(self._shared.stop)
        except BaseException:
            await self._exits.aclose()
            raise
        self._watchdog.start(asyncio.get_running_loop())
        self._exits.callback(self._watchdog.stop)
        housekeeping = asyncio.create_task(self._keep_house(), name="housekeeping")
        self._exits.callback(housekeeping.cancel)
        if parts.overload.has_limits:
            parts.resources.start()
        self._exits.push_async_callback(parts.resources.stop)
        self._intake.is_open = True
        await self._cron.start()
        self._exits.push_async_callback(self._cron.stop)

    async def stop(self, within_s: float | None = None) -> None:
        """Stop: accept and start nothing more, let running jobs end for `within_s` seconds, then
        cancel them, then give them up. Waiting jobs stay in a durable store; in memory they end as
        cancelled. Stopping twice, or before the start, is harmless."""
        if self.started_at is None:
            return
        self.quiet()
        within_s = self.settings.stop_within_s if within_s is None else within_s
        await self.parts.draining.stop(within_s)
        if self._store is None:
            self._cancellation.cancel_waiting()
        interrupted = self.parts.finisher.interrupted_count
        if interrupted:
            logger.warning("stopped: %d running jobs were interrupted", interrupted)
        try:
            await self._exits.aclose()
        finally:  # whatever the lifespan's end raised
            self.parts.table.release_waiters()
            self.parts.events.close()

    def quiet(self) -> None:
        """Accept and start nothing more; running jobs go on."""
        self._intake.is_open = False
        self.parts.dispatcher.quiet()

    async def drain(self, within_s: float) -> bool:
        """Accept nothing more, and run what waits for at most `within_s` seconds.

        For a runtime whose waiting jobs would be lost with it. True: nothing is left that is due by
        then. Call `stop` afterwards.
        """
        self._intake.is_open = False
        try:
            async with asyncio.timeout(within_s):
                await self.parts.draining.wait_drained(time.time() + within_s)
        except TimeoutError:
            return False
        return True

    @property
    def is_accepting(self) -> bool:
        """Whether new jobs are taken: between the start and `quiet`, `drain` or `stop`."""
        return self._intake.is_open

    async def join(self) -> None:
        """Wait until no job waits or runs."""
        if self._shared is not None:
            await self._shared.wait_drained()
            return
        await self.parts.draining.wait_idle()

    # Enqueue

    if not TYPE_CHECKING:  # typed by the overloads it inherits; without their second call here

        async def enqueue(self, task: TaskRef, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
            if self._shared is not None:
                return await self.enqueue_with(PLAIN, task, args, kwargs)
            job = self._intake.accept(task, args, kwargs)
            if self._store is not None:
                await self._acceptance.keep([job])
            return JobHandle(job, self)

    async def _enqueue(
        self, task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> JobHandle[Any]:  # the plain way of what `enqueue` above does in fewer calls
        return await self.enqueue_with(PLAIN, task, args, kwargs)

    async def _enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        return await self.enqueue_many_with(PLAIN, calls)

    async def enqueue_with(
        self,
        options: EnqueueOptions,
        task: TaskRef,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> JobHandle[Any]:
        """`enqueue` for callers that hold the options and arguments as values."""
        is_looked_up = options.job_id is not None and self._store is not None
        if self._shared is None and not is_looked_up and self._intake.is_simple(options):
            job = self._intake.accept(task, args, kwargs, options)
            if self._store is not None:
                await self._acceptance.keep([job])
            return JobHandle(job, self)
        call: Call[Any] = Call(task, args, kwargs or {})  # `Call[Any](...)` costs twice as much
        job, is_new = await self._acceptance.accept(options, call)
        return JobHandle(job, self, is_new)

    async def enqueue_many_with(
        self, options: EnqueueOptions, calls: Iterable[Call[Any]]
    ) -> list[JobHandle[Any]]:
        """`enqueue_many` for callers that hold the options as a value. Raises Refused."""
        jobs = await self._acceptance.accept_many(options, calls)
        return [JobHandle(job, self) for job in jobs]

    async def enqueue_each(
        self, calls: Iterable[tuple[EnqueueOptions, Call[Any]]]
    ) -> list[JobHandle[Any] | WorkerRuntimeError]:
        """Accept each call that can be, on its own. Where one was refused its error stands."""
        answers = await self._acceptance.accept_each(calls)
        return [
            answer
            if isinstance(answer, WorkerRuntimeError)
            else JobHandle(answer[0], self, answer[1])
            for answer in answers
        ]

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
        """An enqueuer for jobs that differ from their task's policy.

        `delay_s` or `at` (an aware datetime) say when the job becomes due; a job that has not
        started within `expires_s` seconds fails as `expired`. Both count from each enqueue.
        `key` names the party whose limits count. With `unique_key`, an unfinished job of that key
        (with `unique_for_s`, also one accepted or completed in that time; `unique_states` says
        which states count) is what `enqueue` returns, its `is_new` False. The job waits until those
        in `after` have completed, and is cancelled when one of them fails. Raises InvalidJob.
        """
        make_options = functools.partial(
            enqueue_options,
            job_id=job_id,
            queue=queue,
            priority=priority,
            delay_s=delay_s,
            at=at,
            timeout_s=timeout_s,
            retry=retry,
            result_ttl_s=result_ttl_s,
            expires_s=expires_s,
            label=label,
            key=key,
            unique_key=unique_key,
            unique_for_s=unique_for_s,
            unique_states=None if unique_states is None else tuple(unique_states),
            after=handles_in(after),
        )
        is_relative = delay_s is not None or expires_s is not None
        return ConfiguredEnqueuer(self, make_options(), make_options if is_relative else None)

    @asynccontextmanager
    async def transaction(self, *, timeout_s: float = 5.0) -> AsyncIterator[Transaction]:
        """A transaction on the store's file for the application's own tables and for new jobs.

        One at a time; rolled back when it is open for longer than `timeout_s`. Raises
        ConfigurationError without an SQLite store, StoreUnavailable when there is no space,
        TransactionExpired.
        """
        if not isinstance(self._store, SqliteStore):
            raise ConfigurationError("transaction() needs a store in a file: store='sqlite:///...'")
        async with self._store.transaction(timeout_s) as session:
            yield Transaction(self, self._intake, self._acceptance.known, session)

    # Workflows

    def new_job_id(self) -> str:
        """An id that no other job has, sorted by the time it is made at."""
        return self._intake.new_id()

    def make_job(self, call: Call[Any], options: EnqueueOptions) -> Job:
        """A checked job that is not accepted yet; for `admit_together`. Raises Refused."""
        return self._intake.make(call.task, call.args, call.kwargs, options)

    async def admit_together(
        self, jobs: Sequence[tuple[Job, Sequence[Job]]], *, is_named: bool
    ) -> list[JobHandle[Any]]:
        """Accept jobs, each with the parents it waits for, all of them or none; `is_named` says
        that a user chose their ids. Raises Refused."""
        await self._acceptance.accept_together(jobs, is_named=is_named)
        return [JobHandle(job, self) for job, _ in jobs]

    async def chain(
        self, *steps: Call[Any] | Sequence[Call[Any]], workflow_id: str | None = None
    ) -> WorkflowHandle:
        """Accept jobs that run one step after another, all of them or none.

        A step is a `call(...)` or `step(...)`, or a list of them that run side by side. Each job of
        a step gets the result of the step before it (of a list: a list of results, in its order) as
        one more, first argument. When a job fails or is cancelled, what comes after it is
        cancelled. Raises Refused.
        """
        return await enqueue_chain(self, steps, workflow_id)

    async def group(self, *calls: Call[Any], workflow_id: str | None = None) -> WorkflowHandle:
        """Accept jobs that run side by side, all of them or none. Raises Refused."""
        return await enqueue_chain(self, [calls], workflow_id)

    async def workflow(self, workflow_id: str) -> WorkflowHandle:
        """The handle of a kept workflow. Raises UnknownJob."""
        return await find_chain(self, workflow_id)

    # Look, wait, act

    @property
    def tasks(self) -> list[TaskDefinition]:
        """What can be run here."""
        return list(self.parts.registry)

    async def find(self, job_id: str) -> JobHandle[Any]:
        """The handle of a kept job. Raises UnknownJob."""
        return JobHandle(await self.job(job_id), self, is_new=False)

    async def job(self, job_id: str) -> Job:
        """The record of a kept job, from memory or the store. Raises UnknownJob."""
        return await self._inspection.job(job_id)

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
        return await self._inspection.page(wanted, limit=limit, cursor=cursor)

    def wait(self, job: Job) -> asyncio.Future[None]:
        """A future that ends with the job; for callers that hold the record. Who stops waiting
        before that gives it back with `stop_waiting`."""
        waiter = self.parts.table.wait(job)
        if self._shared is not None:
            self._shared.watch(job)
        return waiter

    def stop_waiting(self, job: Job, waiter: asyncio.Future[None]) -> None:
        """Give back a future of `wait`. Harmless for one that has ended."""
        self.parts.table.stop_waiting(job, waiter)

    async def cancel(self, job_id: str, message: str = "") -> bool:
        """Cancel a job. True: a waiting one has ended and never runs, a running one was told to
        stop. False: it had ended already. Raises UnknownJob."""
        return await self._cancellation.cancel(await self.job(job_id), message)

    def stop_requested(self, job: Job) -> bool:
        """Whether a running job was told to stop and has not ended yet."""
        slot = self.parts.dispatcher.slot_of(job)
        return slot is not None and slot.stopped_by is not None

    async def retry(self, job_id: str) -> JobHandle[Any]:
        """Run a failed or cancelled job again, under the same id and with a fresh retry budget.

        The one way out of a terminal state, and only on request. Raises UnknownJob,
        InvalidTransition (also where a parent of the job has not completed), Unavailable.
        """
        job = await self._dead_letters.retry(await self.job(job_id))
        return JobHandle(job, self, is_new=False)

    async def retry_together(self, jobs: Iterable[Job]) -> int:
        """Run the failed and cancelled ones of `jobs`, parents before their children, again: all or
        none. Returns how many there were. Raises InvalidTransition, Unavailable."""
        return await self._dead_letters.retry_together(jobs)

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
        return await self._dead_letters.retry_many(wanted, limit)

    async def delete(self, job_id: str) -> None:
        """Forget an ended job. Raises UnknownJob, InvalidTransition for one that has not ended."""
        await self._dead_letters.delete(await self.job(job_id))

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
        return await self._dead_letters.delete_many(wanted, limit)

    def pause(self, queue: str) -> None:
        """Start nothing more from `queue`; it goes on accepting. Raises UnknownQueue."""
        self._queues.pause(queue)

    def resume(self, queue: str) -> None:
        """Undo `pause`. Raises UnknownQueue."""
        self._queues.resume(queue)

    def resize(
        self, queue: str, *, concurrency: int | None = None, capacity: int | None = None
    ) -> None:
        """Change a queue's limits while it works; None leaves one as it is. What runs or waits
        beyond a smaller limit stays. Raises UnknownQueue, ConfigurationError."""
        self._queues.resize(queue, concurrency=concurrency, capacity=capacity)

    def queue_info(self, queue: str) -> QueueInfo:
        """Figures of one queue. Raises UnknownQueue."""
        return self._queues.info(queue)

    def queue_infos(self) -> list[QueueInfo]:
        """Figures of every queue."""
        return self._queues.infos()

    def position(self, job: Job) -> int | None:
        """The job's place in line, 1 for the next to start; None when it is not ready."""
        return self._queues.position(job)

    def crons(self) -> list[CronInfo]:
        """The cron schedules, with their last and next ticks."""
        return [schedule.info() for schedule in self.parts.schedules]

    def subscribe(self, *, buffer: int = 1000) -> Subscription:
        """Every transition of every job: `async with runtime.subscribe() as events: async for ...`.

        A subscriber more than `buffer` events behind loses the oldest and gets a `Missed` with
        their number."""
        return Subscription(self.parts.events, buffer)

    @property
    def loop_lag_s(self) -> float:
        """How late the event loop ran what was due, at the last measurement."""
        return self._watchdog.lag_s

    @property
    def loop_blocked_count(self) -> int:
        """How often the event loop was blocked for longer than `loop_lag_warn_s`."""
        return self._watchdog.blocked_count

    # Inside

    async def _enqueue_tick(self, task: TaskDefinition, job_id: str) -> None:
        await self.enqueue_with(EnqueueOptions(job_id=job_id), task.name)

    async def _keep_house(self) -> None:
        """What has to be done about once a second, busy or idle."""
        while True:
            self.parts.clock.adjust()
            self.parts.table.prune(time.time())
            await asyncio.sleep(1.0)
