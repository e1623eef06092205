"""A21: a failure tells its leaves, its causes and its notes, on every executor and store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.whole.contract import failing_tasks as tasks
from worker_runtime import JobFailed, Runtime, Settings, State, task
from worker_runtime.model.tasks.definition import policy_of
from worker_runtime.model.tasks.policy import RunIn, TaskPolicy

IN_THE_GROUP = "[ConnectionError: host 10.0.0.7 refused] [ValueError: bad row]"
TOLD = {
    "group": (
        "ExceptionGroup",
        f"unhandled errors in a TaskGroup (2 sub-exceptions): {IN_THE_GROUP}",
    ),
    "raised_from": (
        "RuntimeError",
        "could not save; from ConnectionError: host 10.0.0.7 refused",
    ),
    "noted": ("ValueError", "bad row; note: row 17"),
}


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("server").url)
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture(params=["loop", "process"])
def run_in(request: pytest.FixtureRequest) -> RunIn:
    place: RunIn = request.param
    return place


@asynccontextmanager
async def running(
    fn: Callable[..., Any], run_in: RunIn = "loop", store: str = "memory://"
) -> AsyncIterator[Runtime]:
    policy = policy_of(fn) or TaskPolicy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fn, "__worker_runtime_task__", policy, raising=False)
        task(run_in=run_in, retry=policy.retry)(fn)
        settings = Settings(cancel_grace_s=5)
        async with Runtime([fn], store=store, processes=1, settings=settings) as runtime:
            yield runtime


@pytest.mark.parametrize("name", TOLD)
async def test_it_is_told_on_every_executor(name: str, run_in: RunIn, tmp_path: Path) -> None:
    async with running(getattr(tasks, name), run_in) as runtime:
        job = await runtime.enqueue(name, str(tmp_path / "count"))
        await job.wait(timeout_s=10)
        failure = job.job.failure
        assert failure is not None
        assert (failure.error_type, failure.error) == TOLD[name]
        if name != "noted":
            assert "raise error" in (failure.traceback or "") or "raise Conn" in (
                failure.traceback or ""
            )


@pytest.mark.parametrize("name", TOLD)
async def test_it_is_kept_by_every_store(name: str, store: str, tmp_path: Path) -> None:
    async with running(getattr(tasks, name), store=store) as runtime:
        job = await runtime.enqueue(name, str(tmp_path / "count"))
        await job.wait(timeout_s=10)
    if store != "memory://":
        async with running(getattr(tasks, name), store=store) as runtime:
            job = await runtime.find(job.id)
            info = job.info()
            assert (info.error_type, info.error) == TOLD[name]
            with pytest.raises(JobFailed) as caught:
                await job.result(timeout_s=10)
            assert caught.value.error == TOLD[name][1]


async def test_a_group_is_tried_again_where_all_of_it_would_be(
    run_in: RunIn, tmp_path: Path
) -> None:
    async with running(tasks.passing_group, run_in) as runtime:
        job = await runtime.enqueue("passing_group", str(tmp_path / "count"))
        assert await job.result(timeout_s=10) == 2


async def test_a_threads_group_is_told_and_tried_again_too(tmp_path: Path) -> None:
    async with running(tasks.passing_group_of_a_thread, "thread") as runtime:
        job = await runtime.enqueue("passing_group_of_a_thread", str(tmp_path / "count"))
        assert await job.result(timeout_s=10) == 2
        first = (await runtime.inspect(job.id)).attempts[0]
        assert first.error == (
            "both (2 sub-exceptions): [Refused: one] [ConnectionResetError: two]"
        )


async def test_a_group_with_another_in_it_fails_at_once(run_in: RunIn, tmp_path: Path) -> None:
    async with running(tasks.mixed_group, run_in) as runtime:
        job = await runtime.enqueue("mixed_group", str(tmp_path / "count"))
        assert await job.wait(timeout_s=10) is State.FAILED
    assert (tmp_path / "count").read_text() == "x"


async def test_a_wish_to_run_again_counts_in_a_group_too(run_in: RunIn, tmp_path: Path) -> None:
    async with running(tasks.again_in_a_group, run_in) as runtime:
        job = await runtime.enqueue("again_in_a_group", str(tmp_path / "count"))
        assert await job.result(timeout_s=10) == 2
        assert job.job.attempt == 1


async def test_an_order_to_stop_that_a_group_brings_is_no_failure(
    run_in: RunIn, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    count = tmp_path / "count"
    async with running(tasks.stopped_in_a_group, run_in, store) as runtime:
        job = await runtime.enqueue("stopped_in_a_group", str(count))
        await eventually(count.exists)
        await runtime.stop(within_s=0)
    async with running(tasks.stopped_in_a_group, run_in, store) as runtime:
        again = await runtime.find(job.id)
        assert again.state in (State.QUEUED, State.RUNNING)
        await eventually(lambda: len(count.read_text()) == 2)
        assert await again.cancel()
        assert await again.wait(timeout_s=10) is State.CANCELLED
