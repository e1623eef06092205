"""The shorter ways of an attempt and of an end show what the plain ones show."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tests.support.comparing import assert_same, events_of, record_of, tallies_of, tally_of
from tests.support.helpers import eventually
from worker_runtime import JobContext, Limit, Retry, RunAgain, Runtime, Settings, call, task
from worker_runtime.acceptance.options import WIRE, EnqueueOptions, given_options
from worker_runtime.clock.source import SYSTEM
from worker_runtime.engine.events import EventHub, Subscription
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome, OutcomeKind, Transition
from worker_runtime.model.states import COMPLETED
from worker_runtime.model.tasks.definition import define
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.stores.boundary import Recorded

PLAIN = EnqueueOptions()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


# The attempt: a bare task is awaited where it stands, any other by its executor.


@task
async def add(a: int = 1, b: int = 1) -> int:
    return a + b


@task
async def nothing() -> None:
    await asyncio.sleep(0)


@task
async def fail(text: str = "no") -> None:
    raise ValueError(text)


class Runs:
    """Counted by a job's attempts. No data, so that all of them are given this very object."""

    count = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and self.count == other.count

    __hash__ = None  # type: ignore[assignment]


@task(retry=Retry(max_attempts=3, delay_s=0.0, only_for=(KeyError,)))
async def fail_twice(runs: Runs) -> int:
    runs.count += 1
    if runs.count < 3:
        raise KeyError("again")
    return runs.count


@task(retry=Retry(max_attempts=3))
async def again(runs: Runs, *, by_raising: bool = False) -> int | RunAgain:
    runs.count += 1
    if runs.count < 3:
        request = RunAgain(0.2 * (runs.count - 1), uses_attempt=by_raising)
        if by_raising:
            raise request
        return request
    return runs.count


@task(timeout_s=0.02)
async def too_long() -> None:
    await asyncio.sleep(60)


@task(timeout_s=9.0)
async def in_time() -> str:
    return "in time"


@task
async def sleep(seconds: float = 60.0) -> None:
    await asyncio.sleep(seconds)


@task
async def ignores_its_stop() -> None:
    while True:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass


@task
async def cleans_up() -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        return "after its cancel"
    return ""


@task
async def cancels_itself() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(60)


@task
async def leaves_a_variable() -> int:
    seen = VARIABLE.get()
    VARIABLE.set(seen + 1)
    return seen


@task
async def exits() -> None:
    raise SystemExit(3)


@task
async def with_context(ctx: JobContext) -> int:
    return ctx.attempt


BARE = (
    add, nothing, fail, fail_twice, again, too_long, in_time, sleep, ignores_its_stop, cleans_up,
    cancels_itself, leaves_a_variable, exits,
)  # fmt: skip


class Asked(msgspec.Struct):
    task: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    options: EnqueueOptions = PLAIN
    is_cancelled: bool = False


def asked(
    task: Callable[..., Any], *args: Any, is_cancelled: bool = False, **options: Any
) -> Asked:
    given = given_options(SYSTEM, options).now() if options else PLAIN
    return Asked(task, args, {}, given, is_cancelled)


ATTEMPTS: dict[str, Callable[[], list[Asked]]] = {
    "values": lambda: [asked(add, 1), asked(add, 1, 2), asked(add), asked(nothing)],
    "many": lambda: [asked(add, n) for n in range(200)],
    "errors": lambda: [asked(fail), asked(fail, "x" * 10_000), asked(fail, retry=Retry(1))],
    "retries": lambda: [asked(fail_twice, Runs()), asked(fail_twice, Runs(), retry=None)],
    "retries of one job": lambda: [asked(fail, retry=Retry(2, delay_s=0.0))],
    "again": lambda: [asked(again, Runs()), Asked(again, (Runs(),), {"by_raising": True})],
    "keywords": lambda: [Asked(add, (), {"b": 5}), Asked(add, (1,), {"b": 5})],
    "timeouts": lambda: [asked(too_long), asked(in_time), asked(too_long, timeout_s=0.01)],
    "timeouts of one job": lambda: [asked(sleep, timeout_s=0.02), asked(add, timeout_s=None)],
    "a timeout and a retry": lambda: [
        asked(too_long, retry=Retry(2, delay_s=0.0)),
    ],
    "cancels": lambda: [asked(sleep, is_cancelled=True), asked(cleans_up, is_cancelled=True)],
    "stops that are ignored": lambda: [asked(ignores_its_stop, is_cancelled=True)],
    "cancels by itself": lambda: [asked(cancels_itself), asked(add)],
    "variables": lambda: [asked(leaves_a_variable), asked(leaves_a_variable)],
    "exits": lambda: [asked(exits), asked(add)],
    "options": lambda: [
        asked(add, result_ttl_s=9.0),
        asked(add, label="x", expires_s=60.0),
        asked(add, key="k"),
        Asked(add, options=WIRE),
    ],
}


class Seen(msgspec.Struct):
    records: list[Any] = []
    events: list[Any] = []
    tallies: dict[str, Any] = {}
    queues: list[Any] = []
    logged: list[str] = []


def _has_started(job: Job) -> bool:
    return job.started_at is not None


class _Logged(logging.Handler):
    """What a test's runtime says, without the ids of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name} {record.msg.partition('%')[0]}")


async def see(calls: Sequence[Asked], *, is_bare: bool, **settings: Any) -> Seen:
    given = Settings.from_environment({}, cancel_grace_s=0.02, queue_capacity=1000, **settings)
    seen, logged = Seen(), _Logged()
    logger = logging.getLogger("worker_runtime")
    logger.addHandler(logged)
    try:
        async with Runtime(BARE, settings=given) as runtime:
            for definition in runtime.tasks:
                assert definition.is_bare  # nothing below is in vain
                definition.is_bare = is_bare
            async with runtime.subscribe() as events:
                handles = [
                    await runtime.doorway.enqueue_with(one.options, one.task, one.args, one.kwargs)
                    for one in calls
                ]
                for handle, one in zip(handles, calls, strict=True):
                    if one.is_cancelled:
                        await eventually(functools.partial(_has_started, handle.job))
                        await handle.cancel("enough")
                await runtime.join()
            jobs = [handle.job for handle in handles]
            seen.records = [record_of(job) for job in jobs]
            told = await events_of(events, jobs)
            # Side by side jobs end in any order; each job's own events have one.
            seen.events = sorted(told, key=lambda event: event[0])
            seen.tallies = tallies_of(runtime)
            seen.queues = runtime.queue_infos()
    finally:
        logger.removeHandler(logged)
    seen.logged = sorted(logged.lines)
    return seen


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("calls", ATTEMPTS.values(), ids=ATTEMPTS)
async def test_a_bare_attempt_ends_as_any_other(
    calls: Callable[[], list[Asked]], concurrency: int
) -> None:
    bare = await see(calls(), is_bare=True, concurrency=concurrency)
    assert_same(bare, await see(calls(), is_bare=False, concurrency=concurrency))


async def test_only_tasks_that_need_nothing_around_their_call_are_bare() -> None:
    @task
    def in_thread() -> None:
        pass

    async def around(_ctx: JobContext, call_next: Callable[[], Any]) -> Any:
        return await call_next()

    def bare(runtime: Runtime) -> set[str]:
        return {one.name for one in runtime.tasks if one.is_bare}

    tasks = [add, with_context, in_thread]
    assert bare(Runtime(tasks)) == {"add"}
    assert bare(Runtime(tasks, middleware=[around])) == set()
    assert bare(Runtime(tasks, store="sqlite:///jobs.db")) == set()


# The end: what returned a value, and has nothing to record, is over where it stands.


class _NoRecord:
    """Records nothing, and says at once that it may be shown: all that a runtime in memory does."""

    def record_started(self, job: Job) -> None:
        pass

    def record_transition(self, job: Job, transition: Transition, then: Recorded) -> None:
        then()


class _Ended(msgspec.Struct):
    records: list[Any]
    events: list[Any]
    tally: Any
    kept: list[bool]
    history: int
    woken: list[bool]


class _Case(msgspec.Struct):
    value: Any = None
    options: JobOptions | None = None
    duration_s: float | None = 0.01
    must_encode: bool = False


async def _ended(cases: Sequence[_Case], *, is_usual: bool, history: int = 100) -> _Ended:
    @task(result_ttl_s=30.0)
    async def brief() -> None:
        pass

    definitions = [define(nothing), define(brief)]
    table = JobTable(history_count_max=history, history_ttl_s=60.0, waiters_max=100, clock=SYSTEM)
    events = EventHub()
    finisher = Finisher(
        table,
        events,
        recorder=None if is_usual else _NoRecord(),
        outlives_process=False,
        clock=SYSTEM,
        requeue=lambda job: pytest.fail(f"{job.id} has ended"),
        crashes_max=3,
        result_bytes_max=100,
        must_encode=False,
    )
    jobs, waiters = [], []
    async with Subscription(events, 1000) as subscription:
        for number, case in enumerate(cases):
            job = Job(
                f"given-{number}", definitions[number % 2], (), None, "default", 0, number, 1.0
            )
            job.options, job.must_encode = case.options, case.must_encode
            job.attempt, job.started_at = 1, 2.0
            table.jobs[job.id] = job
            jobs.append(job)
            waiters.append(table.wait(job))
            finisher.apply(
                job, Outcome(OutcomeKind.RETURNED, case.value), 1000.0 + number, case.duration_s
            )
    kept = []
    for at in (1020.0, 1040.0, 1080.0):
        table.prune(at)
        kept += [job.id in table.jobs for job in jobs]
    return _Ended(
        [record_of(job) for job in jobs],
        await events_of(subscription, jobs),
        [(tally_of(one.tally), one.tally.durations, one.tally.seconds) for one in definitions],
        kept,
        table.ended_count,
        [waiter.done() for waiter in waiters],
    )


ENDS = {
    "nothing returned": [_Case()] * 3,
    "a value": [_Case(1), _Case("x"), _Case([1]), _Case(0), _Case(False)],
    "no encoding": [_Case(object)] * 2,
    "options": [
        _Case(1, JobOptions(result_ttl_s=10.0)),
        _Case(1, JobOptions(result_ttl_s=10.0)),
        _Case(None, JobOptions(label="x")),
        _Case(None, JobOptions(result_ttl_s=0.0)),
    ],
    "durations": [_Case(1, None, s) for s in (0.0, 0.001, 0.0011, 0.3, 1e6, None)],
    "to be encoded": [
        _Case(None, must_encode=True),
        _Case(1, must_encode=True),
        _Case(object, must_encode=True),
        _Case("x" * 1000, must_encode=True),
    ],
}


@pytest.mark.parametrize("history", [100, 1])
@pytest.mark.parametrize("cases", ENDS.values(), ids=ENDS)
async def test_the_usual_end_is_as_any_other(cases: list[_Case], history: int) -> None:
    usual = await _ended(cases, is_usual=True, history=history)
    assert_same(usual, await _ended(cases, is_usual=False, history=history))
    assert any(record["state"] is COMPLETED for record in usual.records)


async def test_a_limit_is_given_back_by_every_end() -> None:
    limited = task(limit=Limit(concurrency=1))(add)
    for is_bare in (True, False):
        async with Runtime({"add": limited}, concurrency=4) as runtime:
            for definition in runtime.tasks:
                definition.is_bare = is_bare
            handles = await runtime.enqueue_many([call("add", n) for n in range(5)])
            assert [await one.result(timeout_s=20) for one in handles] == [1, 2, 3, 4, 5]
