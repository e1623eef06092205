"""What an outcome leads to: the end, another try after a wait, or a wait that costs no try."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import process_tasks
from tests.support.helpers import eventually
from worker_runtime import (
    JobContext,
    JobFailed,
    Reason,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    task,
)
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.errors import ChildCrashed, RemoteFailure
from worker_runtime.model.tasks.policy import RunIn

WIRE = EnqueueOptions(must_encode=True)


class Script:
    """A task that does one thing per run: raises it if it is an exception, else returns it."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.attempts: list[int] = []

    async def __call__(self, ctx: JobContext) -> Any:
        self.attempts.append(ctx.attempt)
        step = self.steps.pop(0)
        if isinstance(step, BaseException) and not isinstance(step, RunAgain):
            raise step
        return step


# Retries


async def test_a_failed_attempt_is_tried_again_until_it_succeeds_or_the_budget_is_used_up() -> None:
    script = Script(ValueError(1), ValueError(2), "third", *[ValueError(n) for n in range(3)])
    async with Runtime({"script": script}) as runtime:
        thrice = runtime.options(retry=Retry(max_attempts=3, delay_s=0))
        assert await (await thrice.enqueue("script")).result(timeout_s=5) == "third"
        assert script.attempts == [1, 2, 3]
        handle = await thrice.enqueue("script")
        with pytest.raises(JobFailed, match="ValueError: 2"):
            await handle.result(timeout_s=5)
        assert handle.info().attempt == 3
        activity = handle.job.activity
        assert activity is not None
        failures = [(r.number, r.failure.error) for r in activity.attempts if r.failure]
        assert failures == [(1, "0"), (2, "1")]
        (definition,) = runtime.tasks
        assert definition.tally.retried == 4
        assert definition.tally.failed[Reason.ERROR] == 1
        assert sum(definition.tally.durations) == 6


async def test_only_what_the_retry_names_is_tried_again() -> None:
    script = Script(KeyError("again"), ValueError("final"))
    retry = Retry(max_attempts=9, delay_s=0, only_for=(LookupError,))
    async with Runtime({"script": script}) as runtime:
        handle = await runtime.options(retry=retry).enqueue("script")
        with pytest.raises(JobFailed, match="ValueError: final"):
            await handle.result(timeout_s=5)
    assert script.attempts == [1, 2]


async def test_without_a_retry_the_first_failure_is_the_last() -> None:
    script = Script(ValueError(1), ValueError(2))
    async with Runtime({"script": script}) as runtime:
        await (await runtime.enqueue("script")).wait(timeout_s=5)
        never = runtime.options(retry=None)
        await (await never.enqueue("script")).wait(timeout_s=5)
    assert script.attempts == [1, 1]


async def test_the_wait_before_a_retry_is_visible_and_kept() -> None:
    script = Script(ValueError("first"), "second")
    retry = Retry(max_attempts=2, delay_s=0.05, jitter=0)
    async with Runtime({"script": script}) as runtime:
        handle = await runtime.options(retry=retry).enqueue("script")
        await eventually(lambda: handle.state is State.SCHEDULED)
        info = handle.info()
        assert info.due_at is not None
        assert info.error is None
        assert info.started_at is None
        activity = handle.job.activity
        assert activity is not None
        failed_at = activity.attempts[0].ended_at
        assert info.due_at.timestamp() == pytest.approx(failed_at + 0.05, abs=0.001)
        assert await handle.result(timeout_s=5) == "second"
        started_at = handle.info().started_at
        assert started_at is not None
        assert started_at.timestamp() >= failed_at + 0.049


async def test_the_progress_of_an_earlier_attempt_is_not_shown_for_the_next() -> None:
    seen: list[Any] = []

    async def work(ctx: JobContext) -> None:
        seen.append((await made[0].find(ctx.job_id)).info().progress)
        ctx.report(90, 100)
        if ctx.attempt == 1:
            raise ValueError

    made: list[Runtime] = []
    async with Runtime([work]) as runtime:
        made.append(runtime)
        handle = await runtime.options(retry=Retry(delay_s=0)).enqueue(work)
        await handle.wait(timeout_s=5)
        progress = handle.info().progress
        assert progress is not None
        assert (progress.percentage, progress.remaining_s) == (90, None)
    assert seen == [None, None]


# Run again


@pytest.mark.parametrize("how", [lambda r: r, RuntimeError])
async def test_a_task_asks_to_be_run_again_by_raising_or_returning_it(
    how: Callable[[RunAgain], Any],
) -> None:
    async def work(ctx: JobContext) -> str:
        attempts.append(ctx.attempt)
        if len(attempts) < 4:
            request = RunAgain(0.005 if len(attempts) == 1 else 0)
            if how is RuntimeError:
                raise request
            return request  # type: ignore[return-value]
        return "done"

    attempts: list[int] = []
    async with Runtime([work]) as runtime:
        handle = await runtime.enqueue(work)
        assert await handle.result(timeout_s=5) == "done"
        assert handle.info().attempt == 1
    assert attempts == [1, 1, 1, 1]


async def test_a_run_that_counts_uses_up_a_try() -> None:
    script = Script(RunAgain(uses_attempt=True), RunAgain(), ValueError("no try left"))
    async with Runtime({"script": script}) as runtime:
        handle = await runtime.options(retry=Retry(max_attempts=2, delay_s=0)).enqueue("script")
        with pytest.raises(JobFailed, match="no try left"):
            await handle.result(timeout_s=5)
    assert script.attempts == [1, 2, 2]


@pytest.mark.parametrize("is_returned", [True, False], ids=["returned", "raised"])
@pytest.mark.parametrize("run_in", ["loop", "thread", "process"])
@pytest.mark.parametrize("tries", [None, 3])
async def test_runs_that_count_come_to_an_end(
    run_in: RunIn, is_returned: bool, tries: int | None
) -> None:
    """A26: also where the task says nothing of retries, which is one try."""

    async def in_loop(is_returned: bool) -> RunAgain:
        return process_tasks.always_again(is_returned)

    def in_thread(is_returned: bool) -> RunAgain:
        return process_tasks.always_again(is_returned)

    functions = {"loop": in_loop, "thread": in_thread, "process": process_tasks.always_again}
    retry = None if tries is None else Retry(max_attempts=tries)
    again = task(name="again", run_in=run_in, retry=retry)(functions[run_in])
    async with Runtime([again]) as runtime:
        handle = await runtime.enqueue("again", is_returned)
        with pytest.raises(JobFailed, match=f"has used up its tries: {tries or 1}") as caught:
            await handle.result(timeout_s=20)
        assert (caught.value.reason, caught.value.error_type) == (Reason.ERROR, "RunAgain")
        assert handle.info().attempt == (tries or 1)


async def test_crashes_take_no_try_from_a_task_that_asks_again() -> None:
    again = RunAgain(uses_attempt=True)
    script = Script(again, ChildCrashed("signal 9", note="sigkill"), again, ValueError("reached"))
    async with Runtime({"script": script}) as runtime:
        handle = await runtime.options(retry=Retry(max_attempts=3)).enqueue("script")
        with pytest.raises(JobFailed, match="reached"):
            await handle.result(timeout_s=5)
    assert script.attempts == [1, 2, 3, 4]


async def test_a_thread_asks_to_be_run_again_too() -> None:
    runs: list[int] = []

    def work() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise RunAgain
        return len(runs)

    async with Runtime([work]) as runtime:
        assert await (await runtime.enqueue(work)).result(timeout_s=5) == 3


@pytest.mark.parametrize("delay_s", [-1, math.nan, math.inf, 1e12])
def test_a_wait_that_makes_no_sense_is_refused_in_the_task(delay_s: float) -> None:
    with pytest.raises(ValueError, match="delay_s must be between 0 and ten years"):
        RunAgain(delay_s)


# Children


async def test_crashes_have_a_budget_of_their_own() -> None:
    died = ChildCrashed("signal 9", note="sigkill")
    script = Script(died, ValueError("1"), died, ValueError("2"), died)
    settings = Settings(crashes_max=3)
    async with Runtime({"script": script}, settings=settings) as runtime:
        handle = await runtime.options(retry=Retry(max_attempts=3, delay_s=0)).enqueue("script")
        with pytest.raises(JobFailed, match="signal 9") as caught:
            await handle.result(timeout_s=5)
        assert caught.value.reason == Reason.CRASHED
        info = handle.info()
        assert (info.attempt, info.note) == (5, "sigkill")
        assert handle.job.crashes == 3


async def test_a_crash_that_would_come_again_or_must_not_is_final() -> None:
    hopeless = Script(ChildCrashed("memory", note="memory_limit", retryable=False))
    fragile = Script(ChildCrashed("signal 9", note="sigkill"))
    tasks = {"hopeless": hopeless, "fragile": fragile}
    async with Runtime(tasks) as runtime:
        runtime.parts.registry.find("fragile").on_crash = "fail"
        for name in tasks:
            handle = await runtime.enqueue(name)
            await handle.wait(timeout_s=5)
            assert handle.info().reason is Reason.CRASHED
    assert (hopeless.attempts, fragile.attempts) == ([1], [1])


async def test_a_childs_exception_is_recorded_as_its_own() -> None:
    failure = RemoteFailure(
        "ZeroDivisionError",
        "division by zero",
        lineage=("builtins.ZeroDivisionError", "builtins.Exception"),
        traceback="in the child",
    )
    script = Script(failure, failure)
    async with Runtime({"script": script}) as runtime:
        handle = await runtime.options(retry=Retry(max_attempts=2, delay_s=0)).enqueue("script")
        with pytest.raises(JobFailed, match="ZeroDivisionError: division by zero") as caught:
            await handle.result(timeout_s=5)
    assert caught.value.traceback == "in the child"
    assert script.attempts == [1, 2]


# Results that leave the process


class NoCode:
    pass


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (NoCode(), "the result cannot be encoded"),
        (2**70, "the result cannot be encoded"),
        ("x" * 2000, "the result takes 2003 bytes encoded, 1000 are allowed"),
    ],
)
async def test_a_result_that_cannot_leave_the_process_fails_the_job(
    value: Any, problem: str
) -> None:
    script = Script(value, value)
    async with Runtime({"script": script}, settings=Settings(result_bytes_max=1000)) as runtime:
        # In this process it stays the object it is.
        assert await (await runtime.enqueue("script")).result(timeout_s=5) is value
        handle = await runtime.doorway.enqueue_with(WIRE, "script")
        with pytest.raises(JobFailed, match=problem) as caught:
            await handle.result(timeout_s=5)
    assert caught.value.reason == Reason.UNENCODABLE


async def test_a_result_that_fits_is_kept_as_it_is() -> None:
    value = {"rows": [1, 2.5, None], "at": b"x"}
    async with Runtime({"script": Script(value)}) as runtime:
        handle = await runtime.doorway.enqueue_with(WIRE, "script")
        assert await handle.result(timeout_s=5) == value


# Ages


async def test_a_result_is_kept_as_long_as_its_task_or_job_says() -> None:
    @task(result_ttl_s=0.0)
    async def short() -> None: ...

    async with Runtime([short]) as runtime:
        gone = await runtime.enqueue(short)
        kept = await runtime.options(result_ttl_s=60).enqueue(short)
        await asyncio.gather(gone.wait(timeout_s=5), kept.wait(timeout_s=5))
        # Whoever looks next finds it gone; nobody needs to wait for the housekeeping.
        await eventually(lambda: runtime.parts.table.get(gone.id) is None)
        assert (await runtime.find(kept.id)).job is kept.job
