"""A Runtime that works as an arq worker does: arq's context, hooks, retries, cron jobs and log
lines, around the same dispatcher, attempts and finisher as every other runtime."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from worker_runtime.arq.client import ArqRedis, create_pool
from worker_runtime.arq.cron import CronLoop
from worker_runtime.arq.log_lines import bounded_repr, extra_of, log_redis_info, truncate
from worker_runtime.arq.settings import ArqFunction, read_settings
from worker_runtime.errors import ExecutorFailure, JobInterrupted, RunAgain
from worker_runtime.model.activity import Failure
from worker_runtime.model.context import JobContext
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import CANCELLED, COMPLETED, QUEUED, SCHEDULED
from worker_runtime.model.tasks.definition import policy_of, task
from worker_runtime.model.tasks.policy import NO_RETRY
from worker_runtime.runtime import Runtime
from worker_runtime.settings import QueueSettings, Settings
from worker_runtime.stores.redis.location import close_client
from worker_runtime.stores.redis.manner import Manner
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.redis.wire.layout import CRON_HOLD_MS, Wire
from worker_runtime.stores.shared import SharedSetup

logger = logging.getLogger("arq.worker")

_LATE_MS = 1200


class _Run:
    """One attempt of a job as arq's code sees it. Hooks and task are given the same `ctx`."""

    __slots__ = ("ctx", "ref", "retry_s", "started_at", "was_started")

    def __init__(self, ctx: dict[Any, Any], ref: str, now: float) -> None:
        self.ctx = ctx
        self.ref = ref
        self.started_at = now
        self.was_started = False
        self.retry_s: float | None = None


class ArqWorker(Manner):
    """One settings class at work. `async with worker:` runs it until it is left.

    Raises ConfigurationError for settings that cannot work.
    """

    def __init__(
        self, source: object, *, settings: Settings | None = None, **overrides: Any
    ) -> None:
        super().__init__(result_ttl_s=0)
        self.settings = arq = read_settings(source, **overrides)
        self.functions = {function.name: function for function in arq.functions}
        self.ctx: dict[Any, Any] = arq.ctx or {}
        self._runs: dict[str, _Run] = {}
        self._after: dict[str, asyncio.Task[None]] = {}
        self._shown = bounded_repr()
        self.has_after_end = arq.after_job_end is not None
        wire = Wire(arq.job_serializer, arq.job_deserializer, unsafe_pickle=arq.unsafe_pickle)
        base = settings or Settings.from_environment()
        # A key may be any text, and `.` no name of a queue.
        lane = re.sub(r"[^A-Za-z0-9._:-]|^\.+$", "_", arq.queue_name)[:128]
        queue = QueueSettings(lane, concurrency=arq.max_jobs)
        self.store = RedisStore(
            arq.redis,
            wire=wire,
            manner=self,
            is_plain=False,
            keys=lambda _: [(2, arq.queue_name)],
            lease_s=arq.lease_s,
            payload_bytes_max=base.payload_bytes_max,
        )
        base = msgspec.structs.replace(
            base, queues=(queue,), stop_within_s=float(arq.job_completion_wait)
        )
        self.runtime = Runtime(
            {f.name: self._as_task(f) for f in arq.functions},
            settings=base,
            store=SharedSetup(
                self.store,
                serves=(lane,),
                tries_max=self._tries_max,
                aborts=arq.allow_abort_jobs,
                leaves_unknown=arq.unknown_functions == "leave",
                poll_max_s=max(0.001, arq.poll_delay),
                jobs_max=arq.max_burst_jobs if arq.burst and arq.max_burst_jobs >= 0 else None,
                any_name=True,
                keeps_late_ends=True,
                # arq writes it with each poll where the interval is 0.
                health_every_s=arq.health_check_interval or max(0.05, arq.poll_delay),
                health_key=arq.health_check_key,
            ),
            lifespan=self._lifespan,
            middleware=[self._attempt],
        )
        self._clock = self.runtime.doorway.clock
        for definition in self.runtime.tasks:  # marked ones say themselves where they run, not here
            definition.queue = lane
            own_s = self.functions[definition.name].timeout_s
            definition.timeout_s = own_s or definition.timeout_s or arq.job_timeout

    def __repr__(self) -> str:
        return f"<ArqWorker {self.settings.queue_name} {self.store.ends}>"

    # Life

    async def __aenter__(self) -> ArqWorker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        await self.runtime.start()

    async def stop(self, within_s: float | None = None, cause: str | None = None) -> None:
        """Stop as `Runtime.stop`: by default running jobs may end for `job_completion_wait` s."""
        if cause is not None:
            within_s = await self._say_farewell(cause, within_s)
        await self.runtime.stop(within_s)

    async def _say_farewell(self, cause: str, within_s: float | None) -> float | None:
        """Log what arq logs when it stops, and wait for running jobs where the settings say so."""
        wait_s, text = self.settings.job_completion_wait, "shutdown on %s ◆ "
        if wait_s > 0:
            logger.info("Setting allow_pick_jobs to `False`")
            self._log_counts(text, cause, "to be completed")
            self.runtime.quiet()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.runtime.doorway.wait_none_running()
            text, within_s = "shutdown on %s, wait complete ◆ ", 0.0
        self._log_counts(text, cause, "ongoing to cancel")
        return within_s

    def _log_counts(self, text: str, cause: str, what: str) -> None:
        ends = self.store.ends
        running = self.runtime.doorway.running_count()
        text += f"%d jobs complete ◆ %d failed ◆ %d retries ◆ %d {what}"
        logger.info(text, cause, ends.completed, ends.failed, ends.retried, running)

    async def drain(self) -> None:
        """Wait until the queue is empty, deferred jobs included, or `max_burst_jobs` have run."""
        await self.runtime.join()

    @asynccontextmanager
    async def _lifespan(self, runtime: Runtime) -> AsyncIterator[dict[Any, Any]]:
        arq = self.settings
        pool = await create_pool(
            arq.redis,
            job_serializer=arq.job_serializer,
            job_deserializer=arq.job_deserializer,
            default_queue_name=arq.queue_name,
            expires_extra_ms=arq.expires_extra_ms,
            unsafe_pickle=arq.unsafe_pickle,
        )
        pool.clock = self._clock
        names = ", ".join(self.functions)
        logger.info("Starting worker for %d functions: %s", len(self.functions), names)
        await log_redis_info(pool)
        self.ctx["redis"] = pool
        cron = CronLoop(
            arq.crons, functools.partial(_enqueue_cron, pool), self._clock, arq.timezone
        )
        try:
            if arq.on_startup is not None:
                await arq.on_startup(self.ctx)
            cron.start()
            yield self.ctx
        finally:
            await cron.stop()
            if arq.on_shutdown is not None:
                await arq.on_shutdown(self.ctx)
            await close_client(pool)

    # Tasks

    def _as_task(self, function: ArqFunction) -> Callable[..., Any]:
        """The function as a task of the runtime, with arq's context as its first argument where it
        can take one. A function marked with `@task` keeps its executor and gets our context."""
        marked = policy_of(function.coroutine)
        if marked is not None and marked.run_in in ("thread", "process"):
            return function.coroutine
        timeout_s = self.settings.job_timeout if function.timeout_s is None else function.timeout_s
        mark = task(timeout_s=timeout_s or None, retry=NO_RETRY)
        return mark(self._with_ctx(function.coroutine))

    def _with_ctx(self, coroutine: Callable[..., Any]) -> Callable[..., Any]:
        takes_ctx = _takes_positional(coroutine)
        runs = self._runs

        async def call(job_context: JobContext, /, *args: Any, **kwargs: Any) -> Any:
            if takes_ctx:
                return await coroutine(runs[job_context.job_id].ctx, *args, **kwargs)
            return await coroutine(*args, **kwargs)

        return call

    async def _attempt(self, context: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        if context.job_id in self._after:  # the hook of the try before keeps state by the job's id
            await asyncio.wait([self._after[context.job_id]])
        run = self._begin(context)
        if self.settings.on_job_start is not None:
            await self.settings.on_job_start(run.ctx)
        self._log_start(context, run)
        run.was_started = True
        run.started_at = self._clock.wall()
        try:
            return await call_next()
        except BaseException as error:
            if context.cancelled and isinstance(error, asyncio.CancelledError | JobInterrupted):
                raise  # aborted, timed out or shut down: the finisher says which
            if self.settings.retry_jobs:
                again = _asks_again(error)
                if again is not None:
                    is_wish = isinstance(error, RunAgain) or hasattr(error, "defer_score")
                    run.retry_s = again.delay_s if is_wish else None
                    return again
            if isinstance(error, Exception) and not isinstance(error, ExecutorFailure):
                self.store.ends.note_error(context.job_id, error)
            raise

    def _begin(self, context: JobContext) -> _Run:
        lease = self.store.leases.held[context.job_id]
        ctx = {
            **self.ctx,
            "job_id": context.job_id,
            "job_try": lease.tries,
            "enqueue_time": datetime.fromtimestamp(lease.enqueued_ms / 1000, UTC),
            "score": lease.score,
        }
        is_cron = self.functions[context.task].cron is not None
        ref = context.task if is_cron else f"{context.job_id}:{context.task}"
        run = _Run(ctx, ref, self._clock.wall())
        self._runs[context.job_id] = run
        return run

    # What is kept, and the moments around an end

    def _tries_max(self, function: str) -> int:
        own = self.functions[function].max_tries
        return self.settings.max_tries if own is None else own

    def result_ttl_ms(self, job: Job) -> int | None:
        function = self.functions.get(job.task.name)
        was_started = job.id in self._runs
        forever, keep_s = self.settings.keep_result_forever, self.settings.keep_result
        if function is not None and was_started:  # arq: what never ran is kept as the worker says
            if function.keep_result_forever is not None:
                forever = function.keep_result_forever
            if function.keep_result_s is not None:
                keep_s = function.keep_result_s
        return 0 if forever else (round(keep_s * 1000) or None)

    def hold_ms(self, job: Job) -> int:
        function = self.functions.get(job.task.name)
        return CRON_HOLD_MS if function is not None and function.cron is not None else 0

    def ended_early(self, job: Job, text: str) -> None:
        age_s = self._clock.wall() - job.created_at
        if text == "aborted before start":
            logger.info("%6.2fs ⊘ %s:%s aborted before start", age_s, job.id, job.task.name)
        elif text.startswith("max "):
            tries_max = self._tries_max(job.task.name)
            ref = f"{job.id}:{job.task.name}"
            logger.warning("%6.2fs ! %s max retries %d exceeded", age_s, ref, tries_max)

    def before_end(self, job: Job, transition: Transition) -> Awaitable[None] | None:
        run = self._runs.get(job.id)
        if run is None or not run.was_started:
            return None
        self._log_end(job, transition, run)
        hook = self.settings.on_job_end
        return None if hook is None else self._hook("on_job_end", hook, run.ctx)

    def after_end(self, job: Job, transition: Transition) -> Awaitable[None] | None:
        run = self._runs.pop(job.id, None)
        hook = self.settings.after_job_end
        if run is None or hook is None or not run.was_started:
            return None
        task = asyncio.get_running_loop().create_task(self._hook("after_job_end", hook, run.ctx))
        self._after[job.id] = task
        task.add_done_callback(functools.partial(self._forget_after, job.id))
        return task

    def _forget_after(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._after.get(job_id) is task:
            del self._after[job_id]

    async def _hook(self, name: str, hook: Callable[..., Any], ctx: dict[Any, Any]) -> None:
        try:
            await hook(ctx)
        except Exception:
            logger.exception("%s of job %s failed", name, ctx.get("job_id"))

    # arq's log lines

    def _log_start(self, context: JobContext, run: _Run) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        job = self.runtime.doorway.job_here(context.job_id)
        assert job is not None, "a job that runs is here"
        now_ms = self._clock.wall() * 1000
        tries, score = run.ctx["job_try"], run.ctx["score"]
        extra = f" try={tries}" if tries > 1 else ""
        if now_ms - score > _LATE_MS:
            extra += f" delayed={(now_ms - score) / 1000:0.2f}s"
        waited_s = now_ms / 1000 - job.created_at
        logger.info("%6.2fs → %s(%s)%s", waited_s, run.ref, self._arguments(job), extra)

    def _log_end(self, job: Job, transition: Transition, run: _Run) -> None:
        taken_s = transition.at - run.started_at
        if transition.state is COMPLETED:
            if logger.isEnabledFor(logging.INFO):
                is_shown = self.settings.log_results and transition.value is not None
                result = truncate(self._shown.repr(transition.value)) if is_shown else ""
                logger.info("%6.2fs ← %s ● %s", taken_s, run.ref, result)
        elif transition.state in (QUEUED, SCHEDULED):
            if run.retry_s is not None:
                text = "%6.2fs ↻ %s retrying job in %0.2fs"
                logger.info(text, taken_s, run.ref, run.retry_s)
            else:
                logger.info("%6.2fs ↻ %s cancelled, will be run again", taken_s, run.ref)
        elif transition.state is CANCELLED:
            logger.info("%6.2fs ⊘ %s aborted", taken_s, run.ref)
        else:
            failure = transition.failure or Failure(None, "Exception", "")
            error = self.store.ends.error_of(job.id)
            logger.error(
                "%6.2fs ! %s failed, %s: %s",
                taken_s,
                run.ref,
                failure.error_type,
                failure.error,
                exc_info=error if isinstance(error, Exception) else None,
                extra={"extra": extra_of(error)},
            )

    def _arguments(self, job: Job) -> str:
        shown = [self._shown.repr(value) for value in job.args]
        shown += [f"{k}={self._shown.repr(v)}" for k, v in sorted((job.kwargs or {}).items())]
        return truncate(", ".join(shown))


def _takes_positional(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # no signature to look at: arq would pass it
        return True
    return any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    )


def _asks_again(error: BaseException) -> RunAgain | None:
    """What arq takes for a wish to be run again: its `Retry` (recognised by its attribute),
    `RetryJob`, or a CancelledError that nobody ordered."""
    if isinstance(error, RunAgain):
        return RunAgain(error.delay_s, uses_attempt=True)
    if hasattr(error, "defer_score"):
        return RunAgain(max(0.0, (error.defer_score or 0) / 1000), uses_attempt=True)
    if isinstance(error, asyncio.CancelledError) or type(error).__name__ == "RetryJob":
        return RunAgain(uses_attempt=True)
    return None


async def _enqueue_cron(
    pool: ArqRedis, function: str, job_id: str | None, defer_until: datetime | None
) -> None:
    await pool.enqueue_job(function, _job_id=job_id, _defer_until=defer_until)
