"""Process tasks that end in every way that leaves their child alive."""

from __future__ import annotations

import asyncio
import functools
import pickle
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import process_tasks as tasks
from tests.support.executor_calls import ExecutorCall, defined, process_pool, written
from tests.support.helpers import eventually
from tests.support.log_records import Records
from worker_runtime.clock.source import SYSTEM
from worker_runtime.errors import (
    ConfigurationError,
    ExecutorFull,
    JobInterrupted,
    RemoteFailure,
    RunAgain,
)
from worker_runtime.executors.process.parent.pool import ProcessExecutor
from worker_runtime.model.states import StopReason
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.settings import ProcessSettings

pytestmark = pytest.mark.both_loops


async def test_returns_what_the_task_returns() -> None:
    async with process_pool(tasks.add, tasks.add_later) as pool:
        assert await pool.run(tasks.add, 2, b=3) == 5
        assert await pool.run(tasks.add_later, 2, 3) == 5


async def test_a_call_begins_once_and_in_another_process() -> None:
    async with process_pool(tasks.own_pid) as pool:
        call = pool.call(tasks.own_pid)
        assert await call.result() == pool.pids[0]
        assert call.began_count == 1


async def test_the_context_knows_the_job() -> None:
    async with process_pool(tasks.describe_context) as pool:
        call = pool.call(tasks.describe_context, label="mine")
        assert await call.result() == {
            "job_id": call.job.id,
            "task": "describe_context",
            "queue": "default",
            "attempt": 1,
            "label": "mine",
            "state": None,
        }


@pytest.mark.parametrize(
    "kind",
    [
        "ValueError",
        "StopIteration",
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "CancelledError",
        "MemoryError",
    ],
)
async def test_whatever_is_raised_arrives_as_a_remote_failure(kind: str) -> None:
    async with process_pool(tasks.fail, tasks.add) as pool:
        error = await pool.error(tasks.fail, kind)
        assert isinstance(error, RemoteFailure)
        assert (error.error_type, error.error) == (kind, "on purpose")
        assert "process_tasks.py" in error.traceback
        assert await pool.run(tasks.add, 1) == 2
        assert pool.restarts == {}


async def test_an_exception_that_does_not_unpickle_keeps_its_lineage() -> None:
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(tasks.Detail(1, place="here")))
    async with process_pool(tasks.fail) as pool:
        error = await pool.error(tasks.fail, "Awkward")
    assert isinstance(error, RemoteFailure)
    assert error.error == "7 at the end"
    assert Retry(only_for=(tasks.Awkward,)).admits(error)
    assert not Retry(only_for=(OSError,)).admits(error)


async def test_a_result_that_cannot_be_pickled_fails_its_job() -> None:
    async with process_pool(tasks.unpicklable_result, tasks.add) as pool:
        error = await pool.error(tasks.unpicklable_result)
        assert isinstance(error, RemoteFailure)
        assert error.error_type == "TypeError"
        assert "the result, a function, cannot be sent" in error.error
        assert await pool.run(tasks.add, 1) == 2


async def test_values_that_explode_when_they_are_read_fail_their_job() -> None:
    async with process_pool(
        tasks.undecodable_result, tasks.undecodable_argument, tasks.add
    ) as pool:
        error = await pool.error(tasks.undecodable_result)
        assert isinstance(error, RemoteFailure)
        assert "cannot be read in the parent process: unpickled" in error.error
        error = await pool.error(tasks.undecodable_argument, tasks.Grenade())
        assert isinstance(error, RemoteFailure)
        assert error.error_type == "SystemExit"
        assert error.error == "the arguments cannot be read in the child process: unpickled"
        assert await pool.run(tasks.add, 1) == 2


async def test_arguments_that_cannot_be_pickled_are_refused_before_a_child_is_taken() -> None:
    async with process_pool(tasks.echo) as pool:
        call = pool.call(tasks.echo, lambda: None)
        assert "arguments of 'echo' cannot be sent" in str(await call.error())
        assert call.began_count == 0
        assert pool.statistics["children"][0]["jobs_done"] == 0


@pytest.mark.parametrize("how", ["raise", "return"])
async def test_run_again_comes_back_as_itself(how: str) -> None:
    async with process_pool(tasks.run_again) as pool:
        error = await pool.error(tasks.run_again, how)
    assert isinstance(error, RunAgain)
    assert (error.delay_s, error.uses_attempt) == (2.5, True)


async def test_a_checkpoint_ends_a_stopped_task_and_its_child_lives_on(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.cooperate, tasks.add, grace_s=10) as pool:
        call = pool.call(tasks.cooperate, str(started))
        pid = int(await written(started))
        call.stop(StopReason.TIMEOUT)
        assert isinstance(await call.error(), JobInterrupted)
        assert await pool.run(tasks.add, 1) == 2
        assert pool.pids == [pid]


async def test_an_async_task_is_cancelled_and_its_child_lives_on(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.wait_forever, tasks.add, grace_s=10) as pool:
        call = pool.call(tasks.wait_forever, str(started))
        pid = int(await written(started))
        call.stop()
        assert isinstance(await call.error(), JobInterrupted)
        assert Path(f"{started}.cleaned").exists()
        assert await pool.run(tasks.add, 1) == 2
        assert pool.pids == [pid]


async def test_what_an_async_task_leaves_behind_is_cancelled(tmp_path: Path) -> None:
    marker = tmp_path / "cancelled"
    async with process_pool(tasks.leave_a_task_behind) as pool:
        await pool.run(tasks.leave_a_task_behind, str(marker))
        assert marker.exists()


async def test_a_stop_before_a_child_was_free_runs_nothing(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.cooperate, tasks.own_pid, grace_s=10) as pool:
        busy = pool.call(tasks.cooperate, str(started))
        await written(started)
        waiting = pool.call(tasks.own_pid)
        await eventually(lambda: pool.statistics["waiting"] == 1)
        waiting.stop()
        assert isinstance(await waiting.error(), asyncio.CancelledError)
        assert waiting.began_count == 0
        assert pool.statistics["waiting"] == 0
        busy.stop()
        await busy.error()


async def test_a_call_that_nobody_awaits_any_more_is_stopped(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.cooperate, tasks.add) as pool:
        call = pool.call(tasks.cooperate, str(started))
        await written(started)
        call.runner.cancel()
        assert isinstance(await call.error(), asyncio.CancelledError)
        assert await pool.run(tasks.add, 1) == 2


async def test_a_call_that_was_cut_short_does_not_touch_the_next_of_its_slot(
    tmp_path: Path,
) -> None:
    started, again = tmp_path / "started", tmp_path / "again"
    async with process_pool(tasks.cooperate, size_max=2, size_min=2, grace_s=10) as pool:
        call = pool.call(tasks.cooperate, str(started))
        await written(started)
        call.runner.cancel()
        await call.error()
        call.begin_again(str(again))  # the same slot, while the child may still run the former
        await written(again)
        await eventually(lambda: pool.statistics["busy"] == 1)
        call.stop()
        assert isinstance(await call.error(), JobInterrupted)
        assert call.began_count == 2


async def test_sigterm_ends_what_a_task_forks() -> None:
    async with process_pool(tasks.fork_and_terminate) as pool:
        assert await pool.run(tasks.fork_and_terminate) == -signal.SIGTERM


async def test_large_values_cross_whole_and_writable() -> None:
    async with process_pool(tasks.reverse_block, tasks.echo) as pool:
        data = bytearray(b"a" + bytes(6 << 20) + b"z")
        block = await pool.run(tasks.reverse_block, tasks.Block(data))
        assert data[:1] == b"a", "the child wrote to memory of its own"
        assert (bytes(block.data[:1]), bytes(block.data[-1:])) == (b"z", b"a")
        block.data[1] = 7
        text = "é" * (1 << 20)
        assert await pool.run(tasks.echo, {"text": text}) == {"text": text}
        many = [tasks.Block(bytearray([n]) * 100_000) for n in range(20)]
        assert await pool.run(tasks.echo, many) == many


@pytest.mark.parametrize("size", [0, 65_000, 130_000, 131_073, 262_144])
async def test_values_around_the_limits_of_a_frame_cross_whole(size: int) -> None:
    async with process_pool(tasks.echo) as pool:
        value = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert await pool.run(tasks.echo, value) == value


async def test_many_short_jobs_keep_their_answers_apart() -> None:
    async with process_pool(tasks.add, size_max=2, size_min=2) as pool:
        calls = [pool.call(tasks.add, number, 1) for number in range(2000)]
        assert [await call.result() for call in calls] == list(range(1, 2001))
        assert all(call.began_count == 1 for call in calls)
        assert pool.statistics["jobs_done"] == 2000


async def test_a_long_job_does_not_hold_up_what_was_in_line_behind_it(tmp_path: Path) -> None:
    release = tmp_path / "release"
    async with process_pool(
        tasks.add, tasks.report_and_wait, size_max=2, size_min=2, grace_s=10
    ) as pool:
        short = [pool.call(tasks.add, number) for number in range(50)]
        long = pool.call(tasks.report_and_wait, str(release))
        short += [pool.call(tasks.add, number) for number in range(50)]
        for call in short:
            await call.result()
        assert not long.runner.done()
        release.touch()
        await long.result()


async def test_children_are_added_by_backlog_and_retired_when_idle(tmp_path: Path) -> None:
    async with process_pool(
        tasks.cooperate, size_max=3, size_min=1, idle_retire_s=0.05, grace_s=10
    ) as pool:
        assert pool.statistics["size"] == 1
        marks = [tmp_path / str(number) for number in range(4)]
        calls = [pool.call(tasks.cooperate, str(mark)) for mark in marks]
        await eventually(lambda: sum(mark.exists() for mark in marks) == 3)
        assert pool.statistics["size"] == 3
        assert pool.statistics["waiting"] == 1
        for call in calls:
            call.stop()
        for call in calls:
            await call.error()
        await eventually(lambda: pool.statistics["size"] == 1 and len(pool.pids) == 1)
        assert pool.restarts == {"idle": 2}


async def test_no_child_is_added_for_what_is_done_before_it_is_warm(tmp_path: Path) -> None:
    async with process_pool(
        tasks.add, tasks.cooperate, size_max=2, size_min=1, setup=tasks.slow_setup, grace_s=10
    ) as pool:
        await pool.run(tasks.add, 0)
        for call in [pool.call(tasks.add, number) for number in range(5)]:
            await call.result()
        assert pool.statistics["size"] == 1
        marks = [tmp_path / str(number) for number in range(2)]
        calls = [pool.call(tasks.cooperate, str(mark)) for mark in marks]
        await eventually(lambda: all(mark.exists() for mark in marks))  # not as short as those
        for call in calls:
            call.stop()
            await call.error()


async def test_a_child_is_replaced_after_its_number_of_jobs() -> None:
    async with process_pool(tasks.own_pid, jobs_per_child_max=5) as pool:
        pids = [await pool.run(tasks.own_pid) for _ in range(11)]
        assert len(set(pids)) == 3
        calls = [pool.call(tasks.own_pid) for _ in range(100)]
        pids = [await call.result() for call in calls]
        assert max(pids.count(pid) for pid in pids) <= 5


async def test_a_child_that_grew_is_replaced() -> None:
    async with process_pool(tasks.hoard, tasks.own_pid, recycle_memory_bytes=128 << 20) as pool:
        before = await pool.run(tasks.own_pid)
        await pool.run(tasks.hoard, 150)

        async def is_replaced() -> bool:
            return bool(await pool.run(tasks.own_pid) != before)

        await eventually(is_replaced)
        await eventually(lambda: pool.restarts == {"memory_grown": 1})


async def test_a_parent_that_is_large_does_not_count_as_its_children() -> None:
    """A child whose process id is not known yet must not be measured as the process that asks."""
    ballast = b"x" * (384 << 20)
    limits = {"recycle_memory_bytes": 256 << 20, "child_memory_bytes_max": 320 << 20}
    async with process_pool(tasks.own_pid, **limits) as pool:
        first = await pool.run(tasks.own_pid)
        assert await pool.run(tasks.own_pid) == first
        assert pool.restarts == {}
    assert len(ballast) > limits["child_memory_bytes_max"]


async def test_setup_runs_once_in_each_child_and_is_left(tmp_path: Path) -> None:
    setup = functools.partial(tasks.model, str(tmp_path))
    async with process_pool(tasks.describe_context, size_max=2, size_min=2, setup=setup) as pool:
        pids = pool.pids
        states = {(await pool.run(tasks.describe_context))["state"] for _ in range(5)}
        assert states <= {f"model of {pid}" for pid in pids}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(f"{word}-{pid}" for word in ("entered", "left") for pid in pids)


async def test_a_child_that_was_warm_too_late_gets_no_work(tmp_path: Path) -> None:
    """The forkserver is stopped, so that the order to kill the child is late as well."""
    setup = functools.partial(tasks.first_setup_is_slow, str(tmp_path))
    async with process_pool(tasks.sleep, size_min=0, start_timeout_s=1.5, setup=setup) as pool:
        call = pool.call(tasks.sleep, 1)
        forkserver = psutil.Process(int(await written(tmp_path / "started"))).parent()
        assert forkserver is not None
        forkserver.suspend()
        try:
            await written(tmp_path / "warm")
        finally:
            forkserver.resume()
        assert await call.result() == 1
        assert pool.restarts == {"start_failed": 1}


async def test_setup_can_be_named() -> None:
    setup = "tests.support.process_tasks:plain_setup"
    async with process_pool(tasks.describe_context, setup=setup) as pool:
        assert (await pool.run(tasks.describe_context))["state"] == "plain"


async def test_modules_can_be_imported_in_each_child() -> None:
    async with process_pool(tasks.add, preload=False) as pool:
        assert await pool.run(tasks.add, 1) == 2


async def test_a_broken_setup_is_reported_once_and_tried_with_growing_pauses(
    tmp_path: Path,
) -> None:
    setup = functools.partial(tasks.repaired_setup, str(tmp_path))
    with Records("worker_runtime.executors") as seen:
        async with process_pool(tasks.describe_context, setup=setup) as pool:
            call = pool.call(tasks.describe_context)
            await eventually(lambda: pool.restarts.get("start_failed") == 2)
            Path(tmp_path, "ready").touch()
            assert (await call.result())["state"] == "ready"
            assert pool.restarts == {"start_failed": 2}
    errors = [message for message in seen.messages if "could not be set up" in message]
    assert len(errors) == 1
    assert "RuntimeError: not yet" in errors[0]
    assert "repaired_setup" in errors[0]


def test_what_a_child_could_not_import_is_refused_when_the_executor_is_built() -> None:
    for fn in (tasks.nameless, tasks.make_closure()):
        with pytest.raises(ConfigurationError, match="top level of a module"):
            ProcessExecutor([defined(fn)], SYSTEM)
    with pytest.raises(ConfigurationError, match="module:function"):
        ProcessExecutor([], SYSTEM, ProcessSettings(setup="tests.support.process_tasks:missing"))


async def test_a_partial_of_an_importable_function_is_a_task() -> None:
    async with process_pool(tasks.add_two) as pool:
        assert await pool.run(tasks.add_two, b=5) == 7


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"size_max": 0}, "`int` >= 1"),
        ({"size_max": 10_000}, "`int` <= 256"),
        ({"size_max": "many"}, "Expected `int | null`"),
        ({"grace_s": -1}, "`float` >= 0.0"),
        ({"child_memory_bytes_max": 1000}, ">= 67108864"),
        ({"jobs_per_child_max": 0}, ">= 1"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match="process settings") as refused:
        ProcessExecutor([], SYSTEM, ProcessSettings(**limits))
    assert problem in str(refused.value)
    assert next(iter(limits)) in str(refused.value)


async def test_a_module_that_does_not_import_in_a_child_is_refused_at_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "fickle_module.py"
    module.write_text("def work():\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fickle_module  # type: ignore[import-not-found]

    executor = ProcessExecutor([defined(fickle_module.work)], SYSTEM)
    module.write_text("raise OSError('no such disk')\n")
    with pytest.raises(ConfigurationError, match="OSError: no such disk"):
        await executor.open()
    module.write_text("import os\nos._exit(4)\n")
    executor = ProcessExecutor([defined(fickle_module.work)], SYSTEM)
    with pytest.raises(ConfigurationError, match="exited with code 4"):
        await executor.open()


async def test_modules_that_start_threads_are_not_forked_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tmp_path, "threaded_module.py").write_text(
        "import threading\n"
        "done = threading.Event()\n"
        "threading.Thread(target=done.wait, daemon=True).start()\n"
        "def names():\n"
        "    return sorted(thread.name for thread in threading.enumerate())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import threaded_module  # type: ignore[import-not-found]

    try:
        async with process_pool(threaded_module.names) as pool:
            assert any("(wait)" in name for name in await pool.run(threaded_module.names))
    finally:
        threaded_module.done.set()


async def test_a_closed_executor_refuses_and_closing_ends_what_runs(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.swallow_stop, tasks.add) as pool:
        call = pool.call(tasks.swallow_stop, str(started))
        await written(started)
        waiting = pool.call(tasks.add, 1)
        await eventually(lambda: pool.statistics["waiting"] == 1)
        await pool.executor.close()
        assert "SIGKILL" in str(await call.error())
        assert isinstance(await waiting.error(), asyncio.CancelledError)
        assert pool.statistics["children"] == []
        late = pool.call(tasks.add, 1)
        assert isinstance(await late.error(), ExecutorFull)


async def test_statistics_describe_each_child(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.cooperate, tasks.add, grace_s=10) as pool:
        await pool.run(tasks.add, 1)
        call: ExecutorCall = pool.call(tasks.cooperate, str(started))
        pid = int(await written(started))
        figures = pool.statistics
        (child,) = figures["children"]
        assert (child["pid"], child["state"], child["job_id"]) == (pid, "busy", call.job.id)
        assert child["memory_bytes"] > 1 << 20
        assert child["jobs_done"] == 1
        assert child["age_s"] > 0
        assert (figures["size"], figures["busy"], figures["waiting"]) == (1, 1, 0)
        assert figures["encode_s"] > 0
        assert figures["transfer_s"] > 0
        call.stop()
        await call.error()
