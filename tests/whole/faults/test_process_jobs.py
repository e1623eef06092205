"""Process jobs through the whole runtime: what their record says of how they ended."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import process_tasks as tasks
from tests.support.executor_calls import written
from tests.support.helpers import eventually
from worker_runtime import JobCancelled, JobFailed, JobHandle, Reason, Runtime, Settings, task
from worker_runtime.settings import ProcessSettings

SETTINGS = Settings(
    processes=1, process=ProcessSettings(grace_s=0.1, term_grace_s=0.2), concurrency=4
)


async def test_a_job_past_its_deadline_says_which_rung_ended_it(tmp_path: Path) -> None:
    loop_forever = task(run_in="process", timeout_s=0.2)(tasks.loop_forever)
    async with Runtime([loop_forever], settings=SETTINGS) as runtime:
        job = await runtime.enqueue(loop_forever, str(tmp_path / "started"))
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout_s=15)
        assert failed.value.reason == Reason.TIMEOUT
        assert job.info().note == "sigterm"


async def test_a_cancelled_job_says_which_rung_ended_it(tmp_path: Path) -> None:
    ignore_sigterm = task(run_in="process")(tasks.ignore_sigterm)
    async with Runtime([ignore_sigterm], settings=SETTINGS) as runtime:
        job = await runtime.enqueue(ignore_sigterm, str(tmp_path / "started"))
        await written(tmp_path / "started")
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result(timeout_s=15)
        assert job.info().note == "sigkill"


async def test_a_job_that_kills_its_child_three_times_has_crashed() -> None:
    exit_now = task(run_in="process")(tasks.exit_now)
    add = task(run_in="process")(tasks.add)
    async with Runtime([exit_now, add], settings=SETTINGS) as runtime:
        poison: JobHandle[Any] = await runtime.enqueue(exit_now, 7)
        innocent = [await runtime.enqueue(add, number) for number in range(20)]
        with pytest.raises(JobFailed, match="last words") as failed:
            await poison.result(timeout_s=15)
        assert failed.value.reason == Reason.CRASHED
        assert (poison.job.crashes, poison.info().note) == (3, "exit_7")
        assert [await job.result(timeout_s=15) for job in innocent] == list(range(1, 21))


async def test_a_job_above_the_memory_limit_is_not_run_again() -> None:
    allocate = task(run_in="process")(tasks.allocate)
    limits = ProcessSettings(child_memory_bytes_max=256 << 20)
    async with Runtime([allocate], settings=Settings(processes=1, process=limits)) as runtime:
        job = await runtime.enqueue(allocate, 400)
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout_s=15)
        assert failed.value.reason == Reason.CRASHED
        assert (job.job.crashes, job.info().note) == (1, "memory_limit")


async def test_progress_of_a_process_job_is_seen_while_it_runs(tmp_path: Path) -> None:
    report_and_wait = task(run_in="process")(tasks.report_and_wait)
    async with Runtime([report_and_wait], settings=SETTINGS) as runtime:
        job = await runtime.enqueue(report_and_wait, str(tmp_path / "release"))
        await eventually(lambda: (p := job.info().progress) is not None and p.step == "held back")
        (tmp_path / "release").touch()
        await job.result(timeout_s=15)


async def test_a_runtime_that_is_cancelled_while_its_children_warm_up_leaves_none(
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    others = psutil.Process().children()  # a Redis server of other tests
    add = task(run_in="process")(tasks.add)
    limits = ProcessSettings(setup=functools.partial(tasks.endless_setup, str(started)))
    runtime = Runtime([add], settings=Settings(processes=1, process=limits))
    opening = asyncio.create_task(runtime.__aenter__())
    child = psutil.Process(int(await written(started)))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await eventually(lambda: not child.is_running())
    assert psutil.Process().children() == others
