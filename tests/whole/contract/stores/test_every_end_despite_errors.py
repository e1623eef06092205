"""Whatever raises while an outcome is applied, in a store, an encoder, a subscriber or a part of
the runtime: the job reaches an end, who waits is woken, and its slot is free.

The calls are found by looking: each scenario runs once and is watched, then once for every call
that was made on the way, which raises in its place.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.injection import Injector, Point
from tests.whole.contract.stores.places import STORES, Place
from worker_runtime import JobContext, JobHandle, Retry, RunAgain, Runtime, Settings, task
from worker_runtime.engine import finisher as finisher_module
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.slots import Slot
from worker_runtime.errors import ChildCrashed
from worker_runtime.model.states import TERMINAL_STATES, StopReason
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.redis.wire.layout import IN_PROGRESS_PREFIX

WITHIN_S = 20.0


@task
async def returns(value: Any = None) -> Any:
    return value


@task
async def odd() -> object:
    return object()


@task
async def fails() -> None:
    raise ValueError("on purpose")


@task(retry=Retry(max_attempts=2, delay_s=0, jitter=0))
async def fails_twice(ctx: JobContext) -> None:
    ctx.report(1, 2)
    ctx.record_metric("x", 1)
    raise ValueError("on purpose")


@task(retry=Retry(max_attempts=2, delay_s=0.001, jitter=0))
async def fails_and_waits() -> None:
    raise ValueError("on purpose")


@task
async def again(ctx: JobContext) -> str:
    ctx.report(1, 2)
    if ctx.attempt == 1:
        raise RunAgain(uses_attempt=True)
    return "done"


@task(retry=Retry(max_attempts=2, delay_s=0, jitter=0))
async def crashes(ctx: JobContext) -> str:
    if ctx.attempt == 1:
        raise ChildCrashed("it died", note="sigkill")
    return "done"


@task(timeout_s=0.005)
async def too_long() -> None:
    await asyncio.sleep(60)


begun: set[str] = set()


@task
async def holds_once(ctx: JobContext) -> str:
    if ctx.job_id not in begun:
        begun.add(ctx.job_id)
        await asyncio.sleep(60)
    return "done"


TASKS = [
    returns, odd, fails, fails_twice, fails_and_waits, again, crashes, too_long, holds_once
]  # fmt: skip

Scenario = Callable[[Runtime], Awaitable[list[JobHandle[Any]]]]


def plainly(function: Callable[..., Any], *args: Any) -> Scenario:
    async def run(runtime: Runtime) -> list[JobHandle[Any]]:
        return [await runtime.enqueue(function, *args)]

    return run


async def cancelled_while_it_waits(runtime: Runtime) -> list[JobHandle[Any]]:
    handle = await runtime.options(delay_s=60).enqueue(returns)
    await handle.cancel("not wanted")
    return [handle]


async def cancelled_while_it_runs(runtime: Runtime) -> list[JobHandle[Any]]:
    handle = await runtime.enqueue(holds_once)
    await eventually(lambda: handle.id in begun)
    await handle.cancel("not wanted")
    return [handle]


async def expired(runtime: Runtime) -> list[JobHandle[Any]]:
    runtime.pause("default")
    handle = await runtime.options(expires_s=0.05).enqueue(returns)
    await eventually(lambda: runtime.doorway.clock.wall() > handle.job.created_at + 0.05)
    runtime.resume("default")
    return [handle]


async def a_chain_that_completes(runtime: Runtime) -> list[JobHandle[Any]]:
    first = await runtime.enqueue(returns, 1)
    return [first, await runtime.options(after=[first]).enqueue(returns, 2)]


async def a_chain_that_fails(runtime: Runtime) -> list[JobHandle[Any]]:
    first = await runtime.enqueue(fails)
    return [first, await runtime.options(after=[first]).enqueue(returns, 2)]


def slot_of(runtime: Runtime, handle: JobHandle[Any]) -> Slot:
    """By its id: a job of a shared store may run on another record than the handle's."""
    return next(s for s in runtime.parts.dispatcher.running() if s.job.id == handle.id)


async def interrupted(runtime: Runtime) -> list[JobHandle[Any]]:
    handle = await runtime.enqueue(holds_once)
    await eventually(lambda: handle.id in begun)
    slot = slot_of(runtime, handle)
    slot.request_stop(StopReason.SHUTDOWN)
    return [handle]


async def taken_over(runtime: Runtime) -> list[JobHandle[Any]]:
    """Another process has the job by the time that it ends here; then nobody has it."""
    handle = await runtime.enqueue(holds_once)
    await eventually(lambda: handle.id in begun)
    slot = slot_of(runtime, handle)
    waits = asyncio.ensure_future(handle.wait())
    await asyncio.sleep(0)
    store = runtime.parts.store
    assert isinstance(store, RedisStore)
    del store.leases.held[handle.id]
    slot.request_stop(StopReason.SHUTDOWN)
    await eventually(lambda: runtime.doorway.job_here(handle.id) is not handle.job)
    await store._client.delete(IN_PROGRESS_PREFIX + handle.id)
    await waits
    return [handle]


async def retried_by_hand(runtime: Runtime) -> list[JobHandle[Any]]:
    handle = await runtime.enqueue(fails)
    await handle.wait()
    return [await runtime.retry(handle.id)]


SCENARIOS: dict[str, Scenario] = {
    "nothing returned": plainly(returns),
    "a value": plainly(returns, {"a": [1, 2]}),
    "no encoding": plainly(odd),
    "an error": plainly(fails),
    "a retry": plainly(fails_twice),
    "a retry that waits": plainly(fails_and_waits),
    "run again": plainly(again),
    "a crash": plainly(crashes),
    "a timeout": plainly(too_long),
    "cancelled while it waits": cancelled_while_it_waits,
    "cancelled while it runs": cancelled_while_it_runs,
    "expired": expired,
    "a chain that completes": a_chain_that_completes,
    "a chain that fails": a_chain_that_fails,
    "interrupted": interrupted,
    "taken over": taken_over,
    "retried by hand": retried_by_hand,
}
LACKS = {
    "memory": {"taken over"},
    "sqlite": {"taken over"},
    "redis": {"a chain that completes", "a chain that fails", "cancelled while it waits"},
}
"""What does not come to pass with a store, or does so outside of the process."""


@asynccontextmanager
async def observed(place: Place) -> AsyncIterator[Runtime]:
    """A runtime of which nothing hangs, neither its `join` nor its `stop`."""
    runtime = place.runtime(TASKS, settings=Settings(loop_lag_warn_s=60), concurrency=3)
    await runtime.start()
    try:
        yield runtime
        async with asyncio.timeout(WITHIN_S):
            await runtime.join()
    finally:
        async with asyncio.timeout(WITHIN_S):
            await runtime.stop(within_s=1)


async def assert_ended(runtime: Runtime, scenario: Scenario, point: Point | None) -> None:
    """Every job of the scenario ends, nothing that may be asked of it hangs, and its slot and its
    lease are free."""
    try:
        async with asyncio.timeout(WITHIN_S), runtime.subscribe():
            for handle in await scenario(runtime):
                assert await handle.wait() in TERMINAL_STATES
                assert await handle.cancel() is False
        await eventually(lambda: not any(q.running or q.waiting for q in runtime.queue_infos()), 2)
        assert not runtime.parts.finisher.is_recording
        figures = runtime.statistics()
        assert figures.store.leases_held in (None, 0)
        assert figures.waiters == 0
    except BaseException as error:
        error.add_note(f"where {point} raised")
        raise


@pytest.fixture
def injector(monkeypatch: pytest.MonkeyPatch) -> Injector:
    made = Injector("/worker_runtime/", finisher_module.__file__)
    for name in ("apply", "_publish_recorded"):
        monkeypatch.setattr(Finisher, name, made.watched(getattr(Finisher, name)))
    return made


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", LACKS)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_job_ends_whatever_raises_on_the_way_of_its_outcome(
    name: str, store: str, request: pytest.FixtureRequest, tmp_path: Path, injector: Injector
) -> None:
    if name in LACKS[store]:
        pytest.skip("this does not come to pass in a process with that store")
    scenario = SCENARIOS[name]
    async with observed(STORES[store].place(request, tmp_path)) as runtime:
        await assert_ended(runtime, scenario, None)
        injector.seen.clear()  # some calls are made for the first job alone
        await assert_ended(runtime, scenario, None)
        points = list(injector.seen)
        assert len(points) > 2
        for point in points:
            injector.target = point
            await assert_ended(runtime, scenario, point)
            injector.target = None
    assert injector.hits >= len(points) * 0.5  # some are made now and then


# Whether the scenarios meet every call: those that the source has are those that were seen.

NET = {
    "_fail_instead", "_publish_lost", "_lost", "_end_here", "_tell_all", "_tell", "_log",
    "_log_end", "_log_retry",
}  # fmt: skip
"""What catches: it is what the scenarios try, when something else raises."""
ELSEWHERE = {"_refuse", "revive", "_unmark", "wait_shown", "wait_all_shown", "wait", "__init__"}
"""What other tests try: it applies no outcome, or that of a job that nobody has accepted."""


def outward_calls() -> set[tuple[str, int]]:
    """Where finisher.py calls what is not its own, nor a class: function and line."""
    found = set()
    tree = ast.parse(inspect.getsource(finisher_module))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    own = {function.name for function in functions}
    for function in functions:
        if function.name in NET | ELSEWHERE:
            continue
        for call in ast.walk(function):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            is_class = isinstance({**vars(builtins), **vars(finisher_module)}.get(name), type)
            if is_class or name.rpartition(".")[2] in own | {"partial", "_publish"}:
                continue
            found.add((function.name, call.lineno))
    return found


async def test_the_scenarios_meet_every_call_that_the_finisher_makes_outside_itself(
    request: pytest.FixtureRequest, tmp_path: Path, injector: Injector
) -> None:
    for store in LACKS:
        async with observed(STORES[store].place(request, tmp_path)) as runtime:
            for name, scenario in SCENARIOS.items():
                if name not in LACKS[store]:
                    await assert_ended(runtime, scenario, None)
    seen = {(caller.rpartition(".")[2], line) for caller, line, _ in injector.seen}
    assert outward_calls() - seen == set()
