"""Whatever a task raises or does to asyncio, its attempt ends in one outcome and nothing hangs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.helpers import eventually
from worker_runtime import (
    JobCancelled,
    JobContext,
    JobFailed,
    JobInterrupted,
    Reason,
    Runtime,
    Settings,
    State,
    task,
)
from worker_runtime.model.snapshot import JobInfo

QUICK = Settings(cancel_grace_s=0.05)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class FatalText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


LongName = type("E" * 1_000_000, (Exception,), {})

RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("plain"),
    "StopIteration": lambda: StopIteration("value"),
    "StopAsyncIteration": StopAsyncIteration,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "JobInterrupted": lambda: JobInterrupted("by itself"),
    "TimeoutError": TimeoutError,
    "BaseException": BaseException,
    "Unprintable": Unprintable,
    "FatalText": FatalText,
    "LongName": LongName,
    "a group": lambda: BaseExceptionGroup("group", [ValueError("a"), KeyboardInterrupt()]),
    "100 MB": lambda: ValueError("x" * 100_000_000),
    "100 MB of bytes": lambda: ValueError(b"\xff" * 50_000_000),
    "lone surrogate": lambda: ValueError("\ud800"),
    "a class that needs arguments": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "reason"),
}


@asynccontextmanager
async def running(*tasks: Callable[..., Any], **options: Any) -> AsyncIterator[Runtime]:
    async with Runtime(tasks, settings=QUICK, **options) as runtime:
        yield runtime


async def ended(runtime: Runtime, fn: Callable[..., Any], *args: Any) -> JobInfo:
    handle = await runtime.enqueue(fn, *args)
    await handle.wait(timeout_s=10)
    return handle.info()


def check_failure(info: JobInfo, name: str) -> None:
    assert info.state is State.FAILED
    assert info.reason is Reason.ERROR
    assert info.error is not None
    assert len(info.error.encode()) <= 8192
    assert info.error_type is not None
    assert len(info.error_type) <= 200
    if name == "StopIteration":  # PEP 479, in a coroutine and in a thread alike
        assert info.error_type == "RuntimeError"
    elif name == "Unprintable":
        assert info.error == "<Unprintable whose text raises RuntimeError>"
    elif name == "FatalText":
        assert info.error == "<FatalText whose text raises KeyboardInterrupt>"
    elif name.startswith("100 MB"):
        assert info.error.endswith("…")
    elif name in __builtins__:  # type: ignore[operator, unused-ignore]
        assert info.error_type == name


@pytest.mark.both_loops
@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_coroutine_raises_ends_its_job(name: str) -> None:
    async def at_once() -> None:
        raise RAISED[name]()

    async def later() -> None:
        await asyncio.sleep(0)
        raise RAISED[name]()

    async def fine() -> str:
        return "still here"

    async with running(at_once, later, fine, concurrency=1) as runtime:
        check_failure(await ended(runtime, at_once), name)
        check_failure(await ended(runtime, later), name)
        assert await (await runtime.enqueue(fine)).result(timeout_s=5) == "still here"


@pytest.mark.both_loops
@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_thread_raises_ends_its_job(name: str) -> None:
    def work() -> None:
        raise RAISED[name]()

    def fine() -> str:
        return "still here"

    async with running(work, fine, threads=1) as runtime:
        check_failure(await ended(runtime, work), name)
        assert await (await runtime.enqueue(fine)).result(timeout_s=5) == "still here"


async def test_what_is_raised_before_there_is_a_coroutine_ends_the_job_too() -> None:
    class Odd:
        def __init__(self, name: str) -> None:
            self.__name__ = name

        async def __call__(self) -> None: ...

    def raises() -> None:
        raise StopIteration

    odd = task(run_in="loop")(Odd("odd"))
    async with running(odd) as runtime:
        assert (await ended(runtime, odd)).state is State.COMPLETED
        definition = runtime.doorway.definition("odd")
        definition.fn = raises
        info = await ended(runtime, odd)
        assert (info.state, info.error_type) == (State.FAILED, "StopIteration")
        definition.fn = lambda: 5  # returns what cannot be awaited
        info = await ended(runtime, odd)
        assert (info.state, info.error_type) == (State.FAILED, "TypeError")


async def test_an_exception_is_not_kept_alive_by_the_history() -> None:
    class Big:
        pass

    alive: list[weakref.ref[Big]] = []

    async def work() -> None:
        big = Big()
        alive.append(weakref.ref(big))
        raise ValueError(big)

    def in_thread() -> None:
        big = Big()
        alive.append(weakref.ref(big))
        raise ValueError(big)

    async with running(work, in_thread) as runtime:
        await ended(runtime, work)
        await ended(runtime, in_thread)

        def are_gone() -> bool:
            gc.collect()
            return [found() for found in alive] == [None, None]

        await eventually(are_gone)


async def test_errors_keep_the_innermost_frames() -> None:
    async def work() -> None:
        def recurse(n: int) -> None:
            if n:
                recurse(n - 1)
            raise ValueError("deep")

        recurse(500)

    async with running(work) as runtime:
        with pytest.raises(JobFailed) as caught:
            await (await runtime.enqueue(work)).result(timeout_s=5)
    trace = caught.value.traceback
    assert trace is not None
    assert 'raise ValueError("deep")' in trace
    assert trace.count("File ") <= 20


# Asyncio inside a job


@pytest.mark.both_loops
async def test_timeouts_and_task_groups_work_inside_a_job() -> None:
    async def timeout() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return "timed out"
        return "slept"

    async def group() -> list[int]:
        async def child(n: int) -> int:
            await asyncio.sleep(0.001)
            return n

        async with asyncio.TaskGroup() as children:
            made = [children.create_task(child(n)) for n in range(3)]
        return [child.result() for child in made]

    async def failing_group() -> str:
        async def child() -> None:
            raise ValueError

        try:
            async with asyncio.TaskGroup() as children:
                children.create_task(child())
                await asyncio.sleep(60)
        except* ValueError:
            pass
        await asyncio.sleep(0)  # a cancel left pending would surface here
        return "handled"

    async with running(timeout, group, failing_group, concurrency=1) as runtime:
        for _ in range(3):  # one after another in the same slot
            assert await (await runtime.enqueue(timeout)).result(timeout_s=5) == "timed out"
            assert await (await runtime.enqueue(group)).result(timeout_s=5) == [0, 1, 2]
            assert await (await runtime.enqueue(failing_group)).result(timeout_s=5) == "handled"


@pytest.mark.both_loops
async def test_anyio_works_inside_a_job() -> None:
    anyio = pytest.importorskip("anyio")

    async def work() -> str:
        with anyio.move_on_after(0.01) as outer:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 60)
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.02)
                await anyio.sleep(60)
        return "cancelled" if outer.cancelled_caught else "not"

    async with running(work, concurrency=1) as runtime:
        for _ in range(3):
            assert await (await runtime.enqueue(work)).result(timeout_s=5) == "cancelled"


async def test_a_deadline_ends_with_its_job() -> None:
    """The next job in the same slot, which has none, is not stopped by it."""

    async def brief() -> None:
        pass

    async def long() -> str:
        await asyncio.sleep(0.3)
        return "not stopped"

    async with running(brief, long, concurrency=1) as runtime:
        first = await runtime.options(timeout_s=0.1).enqueue(brief)
        second = await runtime.enqueue(long)
        assert await second.result(timeout_s=5) == "not stopped"
        assert first.state is State.COMPLETED
        third = await runtime.options(timeout_s=0.1).enqueue(long)
        assert await third.wait(timeout_s=5) is State.FAILED
        assert third.info().reason is Reason.TIMEOUT


@pytest.mark.both_loops
async def test_a_job_that_cancels_its_own_asyncio_task_disturbs_no_other() -> None:
    async def cancel_and_wait() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(60)

    async def cancel_and_return() -> str:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        return "returned"

    async def innocent() -> str:
        await asyncio.sleep(0)
        return "innocent"

    async with running(cancel_and_wait, cancel_and_return, innocent, concurrency=1) as runtime:
        for _ in range(2):
            first = await runtime.enqueue(cancel_and_wait)
            second = await runtime.enqueue(cancel_and_return)
            third = await runtime.enqueue(innocent)
            assert await third.result(timeout_s=5) == "innocent"
            assert first.info().error_type == "CancelledError"
            assert await second.result() == "returned"


async def test_what_a_job_shields_goes_on_when_the_job_is_cancelled() -> None:
    finished = asyncio.Event()
    began = asyncio.Event()
    background: set[asyncio.Task[None]] = set()

    async def precious() -> None:
        await asyncio.sleep(0.02)
        finished.set()

    async def work() -> None:
        inner = asyncio.ensure_future(precious())
        background.add(inner)
        began.set()
        await asyncio.shield(inner)

    async with running(work) as runtime:
        handle = await runtime.enqueue(work)
        await began.wait()
        await handle.cancel()
        assert await handle.wait(timeout_s=5) is State.CANCELLED
        await asyncio.wait_for(finished.wait(), 5)


# Threads and context variables

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


async def test_context_variables_do_not_leak_between_jobs_in_threads() -> None:
    def change(n: int) -> str:
        found = variable.get()
        variable.set(f"job {n}")
        return found

    async with running(change, threads=1) as runtime:
        found = [await (await runtime.enqueue(change, n)).result(timeout_s=5) for n in range(5)]
    assert found == ["clean"] * 5


# Middleware

Next = Callable[[], Awaitable[Any]]


async def test_middleware_wraps_each_attempt_the_first_one_outermost() -> None:
    order: list[str] = []

    def wrapper(name: str) -> Callable[[JobContext, Next], Awaitable[Any]]:
        async def wrap(ctx: JobContext, call_next: Next) -> Any:
            order.append(f"{name} before {ctx.task} {ctx.attempt}")
            value = await call_next()
            order.append(f"{name} after")
            return [*value, name]

        return wrap

    async def work() -> list[str]:
        order.append("work")
        return []

    def in_thread() -> list[str]:
        return []

    async with running(work, in_thread, middleware=[wrapper("a"), wrapper("b")]) as runtime:
        assert await (await runtime.enqueue(work)).result(timeout_s=5) == ["b", "a"]
        assert order == ["a before work 1", "b before work 1", "work", "b after", "a after"]
        assert await (await runtime.enqueue(in_thread)).result(timeout_s=5) == ["b", "a"]


async def test_middleware_may_answer_raise_or_handle_instead_of_the_task() -> None:
    ran: list[str] = []

    async def gate(ctx: JobContext, call_next: Next) -> Any:
        if ctx.label == "short":
            return "short cut"
        if ctx.label == "refuse":
            raise PermissionError("not today")
        try:
            return await call_next()
        except ValueError:
            return "handled"

    async def work() -> None:
        ran.append("work")
        raise ValueError

    async with running(work, middleware=[gate]) as runtime:

        async def result(label: str) -> Any:
            return await (await runtime.options(label=label).enqueue(work)).result(timeout_s=5)

        assert await result("short") == "short cut"
        with pytest.raises(JobFailed, match="PermissionError: not today"):
            await result("refuse")
        assert ran == []
        assert await result("run") == "handled"
        assert ran == ["work"]


async def test_a_timeout_in_middleware_tells_the_thread_and_frees_the_slot() -> None:
    """The thread goes on for a while; the next job must get a thread, and its own function."""
    release = threading.Event()
    told = threading.Event()

    async def limit(ctx: JobContext, call_next: Next) -> Any:
        async with asyncio.timeout(0.05 if ctx.task == "stubborn" else None):
            return await call_next()

    def stubborn(ctx: JobContext) -> None:
        while not release.wait(0.001):
            if ctx.cancelled:
                told.set()

    def quick(n: int) -> int:
        return n

    async with running(stubborn, quick, middleware=[limit], threads=2, concurrency=1) as runtime:
        info = await ended(runtime, stubborn)
        assert (info.state, info.error_type) == (State.FAILED, "TimeoutError")
        for n in range(5):
            assert await (await runtime.enqueue(quick, n)).result(timeout_s=5) == n
        assert told.wait(5)
        assert runtime.statistics().executors["thread"].busy == 1  # the one that nobody waits for
        release.set()


async def test_a_job_behind_a_thread_that_nobody_waits_for_is_cancelled_at_once() -> None:
    release = threading.Event()

    async def limit(ctx: JobContext, call_next: Next) -> Any:
        async with asyncio.timeout(0.01 if ctx.task == "stubborn" else None):
            return await call_next()

    def stubborn() -> None:
        release.wait(10)

    def quick() -> None: ...

    async with running(stubborn, quick, middleware=[limit], threads=1, concurrency=1) as runtime:
        await ended(runtime, stubborn)
        waiting = await runtime.enqueue(quick)  # in the same slot
        await eventually(lambda: runtime.statistics().executors["thread"].waiting == 1)
        await waiting.cancel()
        assert await waiting.wait(timeout_s=5) is State.CANCELLED
        assert waiting.info().note is None
        release.set()


async def test_a_cancelled_job_ends_its_middleware_too() -> None:
    left: list[str] = []
    began = asyncio.Event()

    async def wrap(ctx: JobContext, call_next: Next) -> Any:
        try:
            return await call_next()
        finally:
            left.append("wrapper")

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    async with running(work, middleware=[wrap]) as runtime:
        handle = await runtime.enqueue(work)
        await began.wait()
        await handle.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            await handle.result(timeout_s=5)
    assert left == ["wrapper"]
