"""What every executor promises: the event loop, threads and child processes alike."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.executor_calls import ExecutorCall, defined
from tests.support.helpers import eventually
from tests.whole.contract import executor_tasks as tasks
from worker_runtime.clock.source import SYSTEM
from worker_runtime.errors import (
    ChildCrashed,
    ExecutorFull,
    JobInterrupted,
    RemoteFailure,
    RunAgain,
)
from worker_runtime.executors import Executor
from worker_runtime.executors.loop import LoopExecutor
from worker_runtime.executors.process.parent.pool import ProcessExecutor
from worker_runtime.executors.thread import ThreadExecutor
from worker_runtime.model.states import StopReason
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.policy import Retry, RunIn
from worker_runtime.settings import ProcessSettings

SIZE = 2
SYNC: dict[str, Callable[..., Any]] = {
    "add": tasks.add,
    "fail": tasks.fail,
    "postpone": tasks.postpone,
    "work_until_stopped": tasks.work_until_stopped,
    "ignore_everything": tasks.ignore_everything,
}
ASYNC: dict[str, Callable[..., Any]] = {
    "add": tasks.add_async,
    "fail": tasks.fail_async,
    "postpone": tasks.postpone_async,
    "work_until_stopped": tasks.work_until_stopped_async,
    "ignore_everything": tasks.ignore_everything_async,
}


@dataclasses.dataclass
class Subject:
    """An open executor and its tasks by name."""

    kind: RunIn
    executor: Executor
    definitions: dict[str, TaskDefinition]

    def call(self, name: str, *args: Any, **kwargs: Any) -> ExecutorCall:
        return ExecutorCall(self.executor, self.definitions[name], args, kwargs or None)


def build(kind: RunIn, definitions: dict[str, TaskDefinition]) -> Executor:
    if kind == "loop":
        return LoopExecutor(stop_grace_s=0.3)
    if kind == "thread":
        return ThreadExecutor(SYSTEM, size=SIZE, abandoned_max=1, stop_grace_s=0.3)
    limits = ProcessSettings(size_max=SIZE, grace_s=0.2, term_grace_s=0.2)
    return ProcessExecutor(list(definitions.values()), SYSTEM, limits)


@pytest.fixture(params=["loop", "thread", "process", "process-async"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    kind: RunIn = request.param.removesuffix("-async")
    functions = SYNC if request.param in ("thread", "process") else ASYNC
    definitions = {name: defined(fn, run_in=kind) for name, fn in functions.items()}
    executor = build(kind, definitions)
    await executor.open()
    try:
        yield Subject(kind, executor, definitions)
    finally:
        await executor.close()


async def test_a_call_returns_what_its_task_returns(subject: Subject) -> None:
    call = subject.call("add", 2, b=3)
    assert await call.result() == 5
    assert call.began_count == 1


async def test_many_calls_each_get_their_own_result(subject: Subject) -> None:
    calls = [subject.call("add", number, b=1) for number in range(200)]
    assert [await call.result() for call in calls] == list(range(1, 201))
    assert all(call.began_count == 1 for call in calls)


@pytest.mark.parametrize("kind", ["ValueError", "KeyError"])
async def test_what_a_task_raises_is_known_by_its_class(subject: Subject, kind: str) -> None:
    error = await subject.call("fail", kind).error()
    if isinstance(error, RemoteFailure):
        assert error.error_type == kind
    else:
        assert type(error) is tasks.ERRORS[kind]
    assert "on purpose" in str(error)
    assert Retry(only_for=(tasks.ERRORS[kind],)).admits(error)
    assert Retry(only_for=(LookupError,)).admits(error) is (kind == "KeyError")
    assert not Retry(only_for=(OSError,)).admits(error)


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
async def test_exceptions_that_mean_something_to_python_end_only_their_call(
    subject: Subject, kind: str
) -> None:
    error = await subject.call("fail", kind).error()
    assert not isinstance(error, ChildCrashed | asyncio.CancelledError)
    assert await subject.call("add", 1, b=1).result() == 2


@pytest.mark.parametrize("how", ["raise", "return"])
async def test_a_wish_to_run_again_arrives(subject: Subject, how: str) -> None:
    call = subject.call("postpone", how)
    await asyncio.wait([call.runner], timeout=10)
    again = call.runner.exception() or call.runner.result()
    assert isinstance(again, RunAgain)
    assert again.delay_s == 3.0


@pytest.mark.parametrize("reason", list(StopReason))
async def test_a_task_that_looks_is_stopped_and_its_report_was_seen(
    subject: Subject, reason: StopReason, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    call = subject.call("work_until_stopped", str(started))
    await eventually(started.exists)
    await eventually(lambda: call.job.activity is not None)
    call.stop(reason)
    assert isinstance(await call.error(), JobInterrupted | asyncio.CancelledError)
    assert call.job.activity is not None
    assert call.job.activity.progress is not None
    assert call.job.activity.progress.step == "started"
    assert await subject.call("add", 1, b=1).result() == 2


async def test_one_stop_does_not_disturb_another_call(subject: Subject, tmp_path: Path) -> None:
    first = subject.call("work_until_stopped", str(tmp_path / "first"))
    second = subject.call("work_until_stopped", str(tmp_path / "second"))
    await eventually(lambda: len(list(tmp_path.iterdir())) == 2)
    first.stop()
    await first.error()
    assert not second.runner.done()
    second.stop()
    await second.error()


async def test_a_stop_that_comes_twice_is_one_stop(subject: Subject, tmp_path: Path) -> None:
    started = tmp_path / "started"
    call = subject.call("work_until_stopped", str(started))
    await eventually(started.exists)
    call.stop(StopReason.TIMEOUT)
    call.stop(StopReason.SHUTDOWN)
    assert isinstance(await call.error(), JobInterrupted | asyncio.CancelledError)
    call.stop()
    assert await subject.call("add", 1, b=1).result() == 2


async def test_a_call_that_waits_for_a_place_is_stopped_before_it_begins(
    subject: Subject, tmp_path: Path
) -> None:
    if subject.kind == "loop":
        pytest.skip("the loop has a place for every call")
    busy = [subject.call("work_until_stopped", str(tmp_path / str(n))) for n in range(SIZE)]
    await eventually(lambda: len(list(tmp_path.iterdir())) == SIZE)
    waiting = subject.call("add", 1, b=1)
    await eventually(lambda: subject.executor.statistics()["waiting"] == 1)
    assert subject.executor.statistics()["busy"] == SIZE
    waiting.stop()
    assert isinstance(await waiting.error(), asyncio.CancelledError)
    assert waiting.began_count == 0
    for call in busy:
        call.stop()
        await call.error()


async def test_a_task_that_ignores_its_stop_is_killed_or_can_be_abandoned(
    subject: Subject, tmp_path: Path
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    call = subject.call("ignore_everything", str(started), str(release))
    await eventually(started.exists)
    call.stop(StopReason.TIMEOUT)
    if subject.kind == "process":
        assert isinstance(await call.error(), ChildCrashed)
        assert subject.executor.statistics()["abandoned"] == 0
    else:
        await asyncio.wait([call.runner], timeout=subject.executor.stop_grace_s)
        assert not call.runner.done()
        subject.executor.abandon(call)
        assert subject.executor.statistics()["abandoned"] == 1
        release.touch()
    assert await subject.call("add", 1, b=1).result() == 2
    await asyncio.wait([call.runner], timeout=10)


async def test_statistics_have_the_common_figures(subject: Subject) -> None:
    await subject.call("add", 1, b=1).result()
    figures = subject.executor.statistics()
    assert {"size", "busy", "waiting", "abandoned"} <= figures.keys()
    assert figures["busy"] in (0, None)
    assert figures["waiting"] == 0


async def test_closing_leaves_no_thread_and_no_child(subject: Subject) -> None:
    calls = [subject.call("add", number, b=1) for number in range(10)]
    for call in calls:
        await call.result()
    await subject.executor.close()
    if subject.kind == "thread":
        names = [thread.name for thread in threading.enumerate()]
        await eventually(
            lambda: not any(t.name.startswith("worker-runtime-") for t in threading.enumerate()),
            what=f"an end of {names}",
        )
    if subject.kind == "process":
        assert subject.executor.statistics()["children"] == []
    if subject.kind != "loop":
        assert isinstance(await subject.call("add", 1, b=1).error(), ExecutorFull)
