"""What a child tells while its task runs: progress, metrics, log records and its output."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support import process_tasks as tasks
from tests.support.executor_calls import process_pool
from tests.support.helpers import eventually
from tests.support.log_records import Records


async def test_progress_and_metrics_arrive_bounded_and_in_order() -> None:
    async with process_pool(tasks.report_steps) as pool:
        call = pool.call(tasks.report_steps, 5000)
        await call.result()
        activity = call.job.activity
    assert activity is not None
    assert activity.progress is not None
    assert (activity.progress.done, activity.progress.step) == (5000, "step 5000")
    assert [metric.value for metric in activity.metrics] == list(range(5000))


async def test_a_report_that_was_held_back_arrives_while_the_task_runs(tmp_path: Path) -> None:
    release = tmp_path / "release"
    async with process_pool(tasks.report_and_wait) as pool:
        call = pool.call(tasks.report_and_wait, str(release))

        def latest() -> float:
            activity = call.job.activity
            return activity.progress.done if activity and activity.progress else 0.0

        await eventually(lambda: latest() == 2)
        release.touch()
        await call.result()


pytestmark = pytest.mark.both_loops


def field(record: logging.LogRecord, name: str) -> Any:
    return getattr(record, name)


async def test_log_records_of_a_task_reach_the_logger_of_the_same_name() -> None:
    with Records("tests.child") as seen:
        async with process_pool(tasks.log_lines, tasks.log_exception, tasks.log_badly) as pool:
            call = pool.call(tasks.log_lines, 20)
            await call.result()
            await pool.run(tasks.log_exception)
            await pool.run(tasks.log_badly)
    assert seen.messages[:20] == [f"line {number}" for number in range(20)]
    assert field(seen.records[0], "job_id") == call.job.id
    assert seen.records[0].levelno == logging.INFO
    failed = seen.records[20]
    assert failed.levelno == logging.ERROR
    assert "KeyError: 'lost'" in str(failed.exc_text)
    assert "cannot be formatted" in seen.messages[21]
    assert len(seen.messages) == 22  # no debug record


async def test_a_flood_of_log_records_is_cut_and_counted() -> None:
    with Records("tests.child") as seen, Records("worker_runtime.child") as about:
        async with process_pool(tasks.log_lines) as pool:
            await pool.run(tasks.log_lines, 5000)
    assert 1000 <= len(seen.messages) < 5000
    assert any("log records dropped" in message for message in about.messages)


async def test_output_is_logged_with_its_job_before_the_result_is_seen() -> None:
    with Records("worker_runtime.child") as seen:
        async with process_pool(tasks.write_output, tasks.add) as pool:
            call = pool.call(tasks.write_output, "hello\nthere")
            await call.result()
            lines = [(r.getMessage(), field(r, "stream"), field(r, "job_id")) for r in seen.records]
            assert sorted(lines) == sorted(
                (line, stream, call.job.id)
                for line in ("hello", "there")
                for stream in ("stdout", "stderr")
            )
            await pool.run(tasks.write_output, "\x00\x00\x00 raw bytes \xff\n", raw=True)
            assert await pool.run(tasks.add, 1) == 2
            await eventually(lambda: any("raw bytes" in line for line in seen.messages))


@pytest.mark.parametrize("how", ["close", "replace", "wrap", "remove"])
async def test_output_is_logged_after_a_job_that_did_something_to_stdout(how: str) -> None:
    with Records("worker_runtime.child") as seen:
        async with process_pool(tasks.misuse_stdout, tasks.write_output) as pool:
            await pool.run(tasks.misuse_stdout, how)
            await pool.run(tasks.write_output, "hello")
            assert seen.messages == ["hello", "hello"]


async def test_a_flood_of_output_is_cut_and_counted() -> None:
    with Records("worker_runtime.child") as seen:
        async with process_pool(tasks.write_much) as pool:
            await pool.run(tasks.write_much, 20_000)
    assert len(seen.messages) == 1001
    assert "lines of output dropped" in seen.messages[-1]


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise", 1), ("exit", 7)])
async def test_a_process_that_a_task_forks_does_not_answer_for_it(how: str, code: int) -> None:
    with Records("worker_runtime.child") as seen:
        async with process_pool(tasks.fork_and, tasks.echo) as pool:
            call = pool.call(tasks.fork_and, how)
            assert await call.result() == code
            assert await pool.run(tasks.echo, "mine") == "mine"
            assert call.job.activity is None
    assert "WARNING tests.child: from the fork" in seen.messages
    assert any("ValueError: in the fork" in line for line in seen.messages) == (how == "raise")
