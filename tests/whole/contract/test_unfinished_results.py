"""A9: what a task comes back with is its result when it has run, on every executor and store."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.whole.contract import decorated_tasks as tasks
from worker_runtime import JobContext, JobFailed, Runtime, Settings, State, task
from worker_runtime.model.tasks.policy import RunIn, TaskPolicy

STORES = ("memory", "sqlite", "redis")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("server").url)
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


@asynccontextmanager
async def running(
    fn: Callable[..., Any], run_in: RunIn | None, store: str = "memory://", **options: Any
) -> AsyncIterator[Runtime]:
    own = task(run_in=run_in)(lambda: None)
    policy: TaskPolicy = own.__worker_runtime_task__  # type: ignore[attr-defined]
    options.setdefault("settings", Settings(cancel_grace_s=0.2))
    with pytest.MonkeyPatch.context() as patch:
        target = getattr(fn, "func", getattr(fn, "__func__", fn))
        patch.setattr(target, "__worker_runtime_task__", policy, raising=False)
        async with Runtime({"odd": fn}, store=store, processes=1, **options) as runtime:
            yield runtime


async def test_a_decorated_async_task_runs_on_every_store(store: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with running(tasks.coroutine, None, store) as runtime:
        job = await runtime.enqueue("odd", str(note))
        assert await job.result(timeout_s=10) == "ran"
    assert note.exists()


@pytest.mark.parametrize("run_in", [None, "process"])
@pytest.mark.parametrize("name", tasks.RUN)
async def test_what_can_be_awaited_is(name: str, run_in: RunIn | None, tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with running(tasks.RUN[name], run_in) as runtime:
        job = await runtime.enqueue("odd", str(note))
        assert await job.result(timeout_s=10) == "ran"
        assert job.job.result == "ran"
    assert note.exists()


@pytest.mark.parametrize("run_in", [None, "process"])
@pytest.mark.parametrize("name", ["generator", "async_generator"])
async def test_a_generator_is_no_result(name: str, run_in: RunIn | None, tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with running(getattr(tasks, name), run_in) as runtime:
        job = await runtime.enqueue("odd", str(note))
        with pytest.raises(JobFailed, match="generator; a task returns once"):
            await job.result(timeout_s=10)
    assert not note.exists()


@pytest.mark.parametrize("run_in", [None, "process"])
async def test_what_it_raises_when_it_is_awaited_is_the_tasks(
    run_in: RunIn | None, tmp_path: Path
) -> None:
    async with running(tasks.failing, run_in) as runtime:
        job = await runtime.enqueue("odd", str(tmp_path / "note"))
        with pytest.raises(JobFailed, match="ConnectionError: down"):
            await job.result(timeout_s=10)


@pytest.mark.parametrize("run_in", [None, "process"])
async def test_it_can_be_cancelled_while_it_is_awaited(
    run_in: RunIn | None, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    async with running(tasks.hanging, run_in) as runtime:
        job = await runtime.enqueue("odd", str(note))
        await eventually(note.exists)
        assert await job.cancel()
        assert await job.wait(timeout_s=10) is State.CANCELLED
    assert Path(f"{note}.unwound").exists()


async def test_a_deadline_ends_it(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with running(tasks.hanging, None) as runtime:
        job = await runtime.options(timeout_s=0.05).enqueue("odd", str(note))
        with pytest.raises(JobFailed, match="ran longer than its timeout"):
            await job.result(timeout_s=10)


async def test_a_middleware_gets_the_value_and_not_what_will_be_one(tmp_path: Path) -> None:
    seen = []

    async def middleware(ctx: JobContext, call_next: Callable[[], Any]) -> Any:
        seen.append(await call_next())
        return seen[0]

    async with running(tasks.coroutine, None, middleware=[middleware]) as runtime:
        job = await runtime.enqueue("odd", str(tmp_path / "note"))
        assert await job.result(timeout_s=10) == "ran"
    assert seen == ["ran"]


async def test_a_stop_while_the_thread_works_leaves_nothing_unawaited(tmp_path: Path) -> None:
    gate, begun = threading.Event(), threading.Event()

    def slow(note: str) -> Any:
        begun.set()
        gate.wait(10)
        return tasks.coroutine(note)

    async with Runtime([slow], settings=Settings(cancel_grace_s=5)) as runtime:
        job = await runtime.enqueue(slow, str(tmp_path / "note"))
        await eventually(begun.is_set)
        assert await job.cancel()
        gate.set()
        assert await job.wait(timeout_s=10) is State.CANCELLED
    assert not (tmp_path / "note").exists()
