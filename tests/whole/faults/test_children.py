"""Children that die, hang or go wild: one job ends truthfully, and no other notices."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import NoneType

import psutil
import pytest

from tests.support import process_tasks as tasks
from tests.support.executor_calls import ExecutorCall, Pool, process_pool, written
from tests.support.helpers import ROOT, eventually
from worker_runtime.errors import ChildCrashed, RemoteFailure
from worker_runtime.model.states import StopReason

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children need fork")

_PR_SET_CHILD_SUBREAPER = 36


async def crash(call: ExecutorCall) -> ChildCrashed:
    error = await call.error()
    assert isinstance(error, ChildCrashed), repr(error)
    return error


async def assert_serves(pool: Pool) -> None:
    assert await pool.run(tasks.add, 1) == 2


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def as_process_1() -> Iterator[None]:
    """Orphans become this process's children, as they do where it is a container's first."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        pytest.skip("orphans can be adopted on Linux only")
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.both_loops
async def test_kill_9_of_a_child_fails_its_job_alone(tmp_path: Path) -> None:
    async with process_pool(
        tasks.sleep_marked, tasks.add, tasks.report_and_wait, size_max=2, size_min=2, grace_s=10
    ) as pool:
        release = tmp_path / "release"
        innocent = pool.call(tasks.report_and_wait, str(release))
        started = tmp_path / "started"
        call = pool.call(tasks.sleep_marked, 60, str(started))
        os.kill(int(await written(started)), signal.SIGKILL)
        error = await crash(call)
        assert error.note == "sigkill"
        assert error.retryable
        assert "not by this runtime" in str(error)
        await assert_serves(pool)
        release.touch()
        await innocent.result()
        assert pool.restarts == {"crashed": 1}


async def test_a_crash_leaves_the_jobs_in_line_behind_it_alone(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    async with process_pool(tasks.crash_unless_first, tasks.add) as pool:
        quick = [pool.call(tasks.add, number) for number in range(20)]
        fine = pool.call(tasks.crash_unless_first, str(marker))
        crashing = pool.call(tasks.crash_unless_first, str(marker))
        behind = [pool.call(tasks.add, number) for number in range(20)]
        assert await fine.result() == "fine"
        assert (await crash(crashing)).note == "exit_3"
        for number, call in enumerate(quick + behind):
            assert await call.result() == number % 20 + 1
            assert call.began_count == 1


async def test_a_crash_is_that_of_the_job_that_ran_however_often_the_next_was_unread(
    tmp_path: Path,
) -> None:
    """Two children have died already before they read what is in line."""
    marker = tmp_path / "marker"
    async with process_pool(tasks.crash_unless_first, tasks.add) as pool:
        quick = [pool.call(tasks.add, number) for number in range(20)]
        fine = pool.call(tasks.crash_unless_first, str(marker))
        crashing = pool.call(tasks.crash_unless_first, str(marker))
        behind = [pool.call(tasks.add, number) for number in range(20)]
        await asyncio.sleep(0)
        for call in behind:
            pool.executor._works[call].deaths = 2
        assert await fine.result() == "fine"
        assert (await crash(crashing)).note == "exit_3"
        for number, call in enumerate(quick + behind):
            assert await call.result() == number % 20 + 1


async def test_a_kill_at_the_deadline_leaves_the_jobs_in_line_behind_it_alone(
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.loop_forever, tasks.add) as pool:
        quick = [pool.call(tasks.add, number) for number in range(20)]
        stuck = pool.call(tasks.loop_forever, str(started))
        behind = [pool.call(tasks.add, number) for number in range(20)]
        await written(started)
        stuck.stop(StopReason.TIMEOUT)
        assert (await crash(stuck)).note == "sigterm"
        for number, call in enumerate(quick + behind):
            assert await call.result() == number % 20 + 1
            assert call.began_count == 1


async def test_a_kill_that_comes_as_its_job_ends_hits_no_other() -> None:
    async with process_pool(tasks.compute) as pool:
        calls = [pool.call(tasks.compute, 20_000) for _ in range(400)]
        stopped = calls[5::10]
        for call in stopped:
            call.when_begun = call.stop
        for call in calls:
            await asyncio.wait([call.runner], timeout=10)
            if call not in stopped:
                assert call.runner.result() == 199_990_000
            elif not call.runner.cancelled():
                assert isinstance(call.runner.exception(), ChildCrashed | NoneType)


async def test_a_stopped_child_is_killed_at_its_deadline(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.cooperate, tasks.add) as pool:
        call = pool.call(tasks.cooperate, str(started))
        os.kill(int(await written(started)), signal.SIGSTOP)
        call.stop(StopReason.TIMEOUT)
        assert (await crash(call)).note == "sigkill"
        await assert_serves(pool)
        assert pool.restarts == {"timeout": 1}


async def test_an_idle_child_that_is_killed_costs_no_job() -> None:
    async with process_pool(tasks.add) as pool:
        for _ in range(5):
            await eventually(lambda: pool.statistics["idle"] == 1)
            (pid,) = pool.pids
            os.kill(pid, signal.SIGKILL)
            while is_alive(pid):  # the event loop must not hear of it before the call is made
                time.sleep(0.001)
            call = pool.call(tasks.add, 1)
            assert await call.result() == 2
            assert call.began_count == 1


async def test_a_segfault_is_told_with_where_it_happened() -> None:
    async with process_pool(tasks.segfault, tasks.add) as pool:
        error = await crash(pool.call(tasks.segfault))
        assert error.note == "sigsegv"
        assert "process_tasks.py" in str(error)
        assert "in segfault" in str(error)
        await assert_serves(pool)


@pytest.mark.parametrize("code", [0, 3])
async def test_an_exit_is_a_crash_with_its_code_and_last_words(code: int) -> None:
    async with process_pool(tasks.exit_now, tasks.add) as pool:
        error = await crash(pool.call(tasks.exit_now, code))
        assert error.note == f"exit_{code}"
        assert str(error).endswith("last words")
        await assert_serves(pool)


async def test_only_the_last_lines_of_stderr_are_kept() -> None:
    async with process_pool(tasks.complain_and_die) as pool:
        lines = str(await crash(pool.call(tasks.complain_and_die, 500))).splitlines()
        assert lines[1:] == [f"complaint {number}" for number in range(480, 500)]


async def test_the_memory_limit_fails_the_job_for_good() -> None:
    limit = 256 << 20
    async with process_pool(tasks.allocate, tasks.add, child_memory_bytes_max=limit) as pool:
        assert await pool.run(tasks.allocate, 20) == 20 << 20
        error = await crash(pool.call(tasks.allocate, 400))
        assert error.note == "memory_limit", str(error)
        assert not error.retryable
        await assert_serves(pool)


async def test_memory_that_is_not_private_counts_too(tmp_path: Path) -> None:
    async with process_pool(
        tasks.hoard_shared, tasks.add, child_memory_bytes_max=128 << 20
    ) as pool:
        error = await crash(pool.call(tasks.hoard_shared, 200))
        assert error.note == "memory_limit", str(error)
        await assert_serves(pool)


@pytest.mark.both_loops
async def test_an_infinite_loop_is_unwound_by_sigterm(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.loop_forever, tasks.add, term_grace_s=10) as pool:
        call = pool.call(tasks.loop_forever, str(started))
        pid = int(await written(started))
        call.stop(StopReason.TIMEOUT)
        assert (await crash(call)).note == "sigterm"
        assert Path(f"{started}.cleaned").exists(), "its finally block ran"
        assert not is_alive(pid)
        await assert_serves(pool)


@pytest.mark.parametrize("task", [tasks.ignore_sigterm, tasks.swallow_stop])
async def test_a_child_that_ignores_sigterm_is_killed(task: object, tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.ignore_sigterm, tasks.swallow_stop, tasks.add) as pool:
        call = pool.call(task, str(started))  # type: ignore[arg-type]
        pid = int(await written(started))
        call.stop()
        assert (await crash(call)).note == "sigkill"
        assert not is_alive(pid)
        await assert_serves(pool)


async def test_what_a_task_started_is_killed_with_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.start_grandchild, tasks.add) as pool:
        call = pool.call(tasks.start_grandchild, str(started))
        grandchild = int(await written(started))
        assert is_alive(grandchild)
        call.stop()
        await crash(call)
        await eventually(lambda: not is_alive(grandchild))


async def test_what_a_dead_child_left_is_reaped_where_its_parent_is_process_1(
    tmp_path: Path, as_process_1: None
) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.leave_grandchild, tasks.add) as pool:
        await crash(pool.call(tasks.leave_grandchild, str(started)))
        grandchild = int(await written(started))
        await eventually(lambda: not psutil.pid_exists(grandchild))
        await assert_serves(pool)


async def test_a_child_that_closes_its_channel_is_a_crash() -> None:
    async with process_pool(tasks.close_every_descriptor, tasks.add) as pool:
        assert (await crash(pool.call(tasks.close_every_descriptor))).note == "exit_1"
        await assert_serves(pool)


async def test_a_sigterm_from_outside_is_a_crash(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with process_pool(tasks.sleep_marked, tasks.add) as pool:
        call = pool.call(tasks.sleep_marked, 60, str(started))
        os.kill(int(await written(started)), signal.SIGTERM)
        assert (await crash(call)).note == "sigterm"
        await eventually(lambda: pool.statistics["idle"] == 1)
        os.kill(pool.pids[0], signal.SIGTERM)  # an idle one is just replaced
        await eventually(lambda: pool.restarts == {"crashed": 2})
        await assert_serves(pool)


async def test_an_executor_outlives_its_forkserver(tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    async with process_pool(
        tasks.report_and_wait, tasks.sleep_marked, tasks.add, size_max=2, size_min=2, grace_s=10
    ) as pool:
        survivor = pool.call(tasks.report_and_wait, str(release))
        doomed = pool.call(tasks.sleep_marked, 60, str(started))
        pid = int(await written(started))
        forkserver = psutil.Process(pid).ppid()
        os.kill(forkserver, signal.SIGKILL)
        await eventually(lambda: not is_alive(forkserver))
        os.kill(pid, signal.SIGKILL)
        error = await crash(doomed)
        assert error.note == "lost"
        await assert_serves(pool)
        release.touch()
        await survivor.result()
        await assert_serves(pool)


def descriptors() -> int:
    return len(os.listdir(f"/proc/{os.getpid()}/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_hundreds_of_crashes_leave_nothing_behind() -> None:
    block = tasks.Block(bytearray(300_000))
    async with process_pool(
        tasks.exit_now, tasks.die_with_block, tasks.add, size_max=2, size_min=2
    ) as pool:
        await assert_serves(pool)
        await eventually(lambda: pool.statistics["idle"] == 2)
        before = descriptors()
        for batch in range(3):
            calls = [
                pool.call(tasks.die_with_block, block)
                if number % 10 == 0
                else pool.call(tasks.exit_now, batch)
                for number in range(100)
            ]
            for call in calls:
                await crash(call)
        await assert_serves(pool)
        await eventually(lambda: pool.statistics["idle"] == 2 and len(pool.pids) == 2)
        forkserver = psutil.Process(pool.pids[0]).parent()
        assert forkserver is not None
        assert len(forkserver.children()) == 2
        assert forkserver.num_fds() <= 10
        assert descriptors() == before
        assert pool.restarts == {"crashed": 300}
    assert not forkserver.is_running() or forkserver.status() == psutil.STATUS_ZOMBIE


PARENT = """
import asyncio, sys
from tests.support import process_tasks as tasks
from tests.support.executor_calls import process_pool

async def main():
    async with process_pool(tasks.tick, tasks.hold_the_gil, size_max=2) as pool:
        first = pool.call(tasks.tick, sys.argv[1])
        second = pool.call(tasks.hold_the_gil, sys.argv[2], 60)
        await first.result(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="holds the GIL through the C library")
async def test_when_the_parent_is_killed_its_children_are_gone_soon(
    tmp_path: Path,
) -> None:
    ticks, started = tmp_path / "ticks", tmp_path / "started"
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(ticks), str(started)], cwd=ROOT
    )
    try:
        stuck = int(await written(started))
        await written(ticks)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert stuck in {process.pid for process in family}
        assert len(family) == 3
    finally:
        parent.kill()
        parent.wait()
    # Left alone, either would go on for a minute.
    await eventually(lambda: not any(is_alive(process.pid) for process in family))


async def test_a_task_that_raises_memory_error_without_a_limit_has_failed() -> None:
    async with process_pool(tasks.fail) as pool:
        error = await pool.error(tasks.fail, "MemoryError")
        assert isinstance(error, RemoteFailure)
