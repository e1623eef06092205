"""A file that the code of before the modules were moved wrote is read, and its jobs go on.

`files/written_before_the_move.py` is how it was written. What is asserted here is what that code
promised its users, so that nothing of it may be made to fit a change.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.stores.sqlite.files import written_before_the_move as written
from tests.support.helpers import ROOT, eventually
from worker_runtime import (
    InvalidTransition,
    JobConflict,
    Priority,
    Reason,
    Runtime,
    State,
    UnknownJob,
    call,
)
from worker_runtime.model.activity import Counts
from worker_runtime.model.tasks.options import JobOptions

STORED = Path(written.__file__).with_suffix(".sqlite")

# What the file says; and of the jobs that have not ended there, what becomes of them today.
AT_REST = {
    State.COMPLETED: {
        *("completed", "completed-types", "completed-report", "completed-unique"),
        *("completed-kept", "group.0", "group.1", "group.2"),
    },
    State.FAILED: {
        *("failed-error", "failed-retried", "failed-parent", "failed-timeout"),
        *("failed-unencodable", "failed-expired", "failed-crashed", "failed-interrupted"),
    },
    State.CANCELLED: {"cancelled-child", "cancelled-waiting", "cancelled-running"},
    State.SCHEDULED: {"delayed", "delayed-for-a-minute", "waits-for-retry", "postponed"},
    State.RUNNING: {
        *("running", "running-twice", "running-thrice", "running-fragile", "chain.0"),
    },
    State.QUEUED: {
        *("queued-critical", "queued-high", "queued-normal", "queued-low", "queued-options"),
        *("queued-unreachable", "queued-lineage", "queued-other", "queued-without"),
        *("queued-expires", "parked", "parked-too", "held", "chain.1", "chain.2", "chain.3"),
    },
}
FAILED_BECAUSE = {
    "failed-error": (Reason.ERROR, "ValueError", "no: ü"),
    "failed-retried": (Reason.ERROR, "ValueError", "twice"),
    "failed-parent": (Reason.ERROR, "ValueError", "parent"),
    "failed-timeout": (Reason.TIMEOUT, "TimeoutError", "ran longer than its timeout of 0.05 s"),
    "failed-unencodable": (Reason.UNENCODABLE, "Unencodable", "the result cannot be encoded"),
    "failed-expired": (Reason.EXPIRED, "Expired", "waited longer than its deadline"),
    "failed-crashed": (Reason.CRASHED, "ChildCrashed", "was killed by signal 9 (SIGKILL)"),
    "failed-interrupted": (Reason.INTERRUPTED, "ProcessDied", "the worker process died while"),
}
COMPLETES_WITH = {
    "running": 2,  # the second attempt: a crash used up the first
    "running-twice": 203,
    "queued-critical": 1,
    "queued-high": 2,
    "queued-normal": 3,
    "queued-low": 4,
    "queued-options": 2,
    "queued-unreachable": 2,
    "queued-lineage": 2,
    "held": 41,
    "chain.0": 102,
    "chain.1": 103,
    "chain.2": 112,
    "chain.3": 215,
    "delayed-for-a-minute": 3,
}
FAILS_BECAUSE_OF = {
    "running-thrice": Reason.CRASHED,
    "running-fragile": Reason.INTERRUPTED,
    "queued-other": Reason.ERROR,
    "queued-without": Reason.ERROR,
    "queued-expires": Reason.EXPIRED,
}
GOES_ON_WAITING = {
    "delayed": State.SCHEDULED,
    "waits-for-retry": State.SCHEDULED,
    "postponed": State.SCHEDULED,
    "parked": State.QUEUED,
    "parked-too": State.QUEUED,
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(shutil.copy(STORED, tmp_path / "jobs.db"))


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    written.Then.is_now = False
    yield
    written.Then.is_now = False


def opened(path: str) -> Runtime:
    """Today's runtime on the file: without `gone`, and without children that nothing needs."""
    return written.runtime_on(path, tasks=[one for one in written.TASKS if one != written.crash])


async def jobs(*arguments: str) -> Any:
    """What `worker-runtime jobs` says as JSON."""

    def run() -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "worker_runtime", "jobs", *arguments, "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return await asyncio.to_thread(run)


def test_every_job_of_the_file_is_accounted_for() -> None:
    unended = AT_REST[State.SCHEDULED] | AT_REST[State.RUNNING] | AT_REST[State.QUEUED]
    assert unended == {*COMPLETES_WITH, *FAILS_BECAUSE_OF, *GOES_ON_WAITING}
    assert AT_REST[State.FAILED] == {*FAILED_BECAUSE}
    assert {reason for reason, *_ in FAILED_BECAUSE.values()} == {*Reason}
    assert {*AT_REST} == {*State}


async def test_it_is_looked_at_without_a_worker(path: str) -> None:
    store = ("--store", f"sqlite:///{path}")
    page = await jobs("list", *store, "--limit", "1000")
    found: dict[str, set[str]] = {state: set() for state in State}
    for job in page["jobs"]:
        found[job["state"]].add(job["id"])
    assert found == AT_REST
    assert page["cursor"] is None
    shown = await jobs("show", "queued-options", *store)
    assert (shown["label"], shown["queue"], shown["task"]) == ("für Zoë", "line", "be_busy")
    shown = await jobs("show", "failed-retried", *store)
    assert [attempt["error"] for attempt in shown["attempts"]] == ["twice", "twice"]
    assert Path(path).read_bytes() == STORED.read_bytes()


async def test_what_a_job_was_given_is_what_it_has(path: str) -> None:
    async with opened(path) as runtime:
        for priority in Priority:
            job = await runtime.job(f"queued-{priority.name.lower()}")
            assert (job.priority, job.args, job.queue) == (priority, (int(priority),), "line")
        options = (await runtime.job("queued-options")).options
        assert options is not None
        assert options.expires_at == pytest.approx(
            written.WRITTEN_AT.timestamp() + written.MANY_YEARS_S, abs=600
        )
        assert options == JobOptions(
            timeout_s=5.0,
            retry=written.OPTIONS["retry"],
            result_ttl_s=written.MANY_YEARS_S,
            expires_at=options.expires_at,
            label="für Zoë",
            key="customer-7",
            unique_key="report:7",
        )
        for job_id, expected in {
            "queued-low": None,
            "queued-without": JobOptions(timeout_s=None, retry=None),
            "parked-too": JobOptions(label="later"),
            "held": JobOptions(after=("running",)),
            "chain.1": JobOptions(
                label="chain: step 2, job 2 of 4, in a group",
                after=("chain.0",),
                takes_results="one",
            ),
            "chain.3": JobOptions(
                label="chain: step 3, job 4 of 4",
                after=("chain.1", "chain.2"),
                takes_results="all",
            ),
            "completed-kept": JobOptions(result_ttl_s=written.MANY_YEARS_S),
        }.items():
            assert (await runtime.job(job_id)).options == expected, job_id
        waits = await runtime.inspect("waits-for-retry")
        assert [(one.number, one.error_type, one.error) for one in waits.attempts] == [
            (1, "KeyError", "'later'")
        ]
        delayed = await runtime.inspect("delayed")
        assert delayed.due_at is not None
        assert (delayed.due_at - delayed.created_at).total_seconds() == pytest.approx(
            written.TEN_YEARS_S, abs=1
        )


async def test_what_has_ended_is_as_it_was(path: str) -> None:
    async with opened(path) as runtime:
        for state in (State.COMPLETED, State.FAILED, State.CANCELLED):
            for job_id in AT_REST[state]:
                handle = await runtime.find(job_id)
                assert handle.state is state
                assert handle.info().ended_at is not None
        for job_id, (reason, error_type, words) in FAILED_BECAUSE.items():
            info = await runtime.inspect(job_id)
            assert (info.reason, info.error_type) == (reason, error_type)
            assert words in str(info.error)
        failure = (await runtime.job("failed-error")).failure
        assert failure is not None
        assert "raise ValueError(text)" in str(failure.traceback)
        crashed = await runtime.inspect("failed-crashed")
        assert (crashed.note, [one.number for one in crashed.attempts]) == ("sigkill", [1, 2, 3])
        for job_id, words in {
            "cancelled-waiting": "not wanted",
            "cancelled-running": "stop it",
            "cancelled-child": "failed-parent",
        }.items():
            assert words in str((await runtime.inspect(job_id)).error)

        order = written.Order(7, datetime(2024, 3, 1, 12, tzinfo=UTC), ["a", "ü", "2024-03-01"])
        for job_id, value in {
            "completed": 3,
            "completed-types": order,
            "completed-report": "reported",
            "group.2": 3,
        }.items():
            assert await (await runtime.find(job_id)).result() == value
        activity = (await runtime.job("completed-report")).activity
        assert activity is not None
        assert [(one.name, one.value) for one in activity.metrics] == [
            ("loss", 1.0 / number) for number in range(1, 6)
        ]
        progress = activity.progress
        assert progress is not None
        assert (progress.percentage, progress.step) == (80.0, "nearly")
        assert progress.counts == Counts(4, 5, 40, 50, "the last one")


async def test_ids_keys_and_notes_are_still_taken(path: str) -> None:
    async with opened(path) as runtime:
        known = await runtime.options(job_id="completed").enqueue(written.add, 1, b=2)
        assert (known.is_new, await known.result()) == (False, 3)
        for job_id in ("completed", "delayed"):
            with pytest.raises(JobConflict):
                await runtime.options(job_id=job_id).enqueue(written.add, 99)
        with pytest.raises(JobConflict):
            await runtime.chain(call(written.add, 1), workflow_id="chain")
        one = await runtime.options(unique_key="report:7").enqueue(written.add, 1)
        assert (one.is_new, one.id) == (False, "queued-options")
        once = runtime.options(unique_key="once", unique_for_s=written.MANY_YEARS_S)
        assert (await once.enqueue(written.add, 1)).id == "completed-unique"
        (schedule,) = runtime.crons()
        assert schedule.name == "leap-day"
        assert schedule.last_at is not None
        assert 0 <= (schedule.last_at - written.WRITTEN_AT).total_seconds() < 600
        new = await runtime.enqueue(written.add, 1)
        assert new.job.order > max(
            [(await runtime.job(job_id)).order for ids in AT_REST.values() for job_id in ids]
        )


async def test_what_had_not_ended_goes_on(path: str) -> None:
    async with opened(path) as runtime:
        await eventually(lambda: _are_running(runtime, "running", "running-twice", "chain.0"))
        written.Then.is_now = True
        for job_id, value in COMPLETES_WITH.items():
            assert await (await runtime.find(job_id)).result(timeout_s=30) == value, job_id
        for job_id, reason in FAILS_BECAUSE_OF.items():
            handle = await runtime.find(job_id)
            await handle.wait(timeout_s=30)
            assert (handle.state, handle.info().reason) == (State.FAILED, reason), job_id
        for job_id, state in GOES_ON_WAITING.items():
            assert (await runtime.find(job_id)).state is state
        crashed = await runtime.inspect("running-thrice")
        assert (crashed.error_type, len(crashed.attempts)) == ("ProcessDied", 3)
        again = await runtime.inspect("queued-unreachable")
        assert [one.error_type for one in again.attempts] == ["WorkerUnreachable", None]
        starts = [
            (await runtime.job(f"queued-{one.name.lower()}")).started_at or 0.0 for one in Priority
        ]
        assert starts == sorted(starts)
        workflow = await runtime.workflow("chain")
        assert [len(step) for step in workflow.steps] == [1, 2, 1]
        assert await workflow.result(timeout_s=30) == 215

    async with opened(path) as runtime:  # and all of it was kept
        for job_id, value in COMPLETES_WITH.items():
            assert await (await runtime.find(job_id)).result() == value
        for job_id, reason in FAILS_BECAUSE_OF.items():
            assert (await runtime.inspect(job_id)).reason == reason


async def _are_running(runtime: Runtime, *job_ids: str) -> bool:
    return all([(await runtime.find(job_id)).state is State.RUNNING for job_id in job_ids])


async def test_what_had_ended_can_be_retried_and_deleted(path: str) -> None:
    async with opened(path) as runtime:
        with pytest.raises(InvalidTransition):
            await runtime.retry("cancelled-child")  # its parent has failed
        assert await (await runtime.retry("cancelled-waiting")).result(timeout_s=30) == 2
        again = await runtime.retry("failed-error")
        await again.wait(timeout_s=30)
        assert again.info().error == "no: ü"
        await runtime.delete("failed-timeout")
        with pytest.raises(UnknownJob):
            await runtime.find("failed-timeout")


async def test_a_task_that_is_back_runs_what_was_parked(path: str) -> None:
    written.Then.is_now = True
    tasks = [written.gone, written.hold, written.add, written.be_busy, written.fail]
    async with written.runtime_on(path, tasks=tasks) as runtime:
        assert await (await runtime.find("parked")).result(timeout_s=30) == 5
        assert await (await runtime.find("parked-too")).result(timeout_s=30) == 6
