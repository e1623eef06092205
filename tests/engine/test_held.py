"""Chains, groups and `after`: order, results, what a failing parent means, and restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import ROOT, eventually
from worker_runtime import (
    InvalidJob,
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobFailed,
    QueueFull,
    Runtime,
    Settings,
    State,
    UnknownJob,
    call,
    step,
    task,
)

Start = Callable[..., Any]


class Work:
    """Tasks of one test, and what they did."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.fails = True
        self.ran: list[str] = []

    def tasks(self) -> list[Callable[..., Any]]:
        @task
        async def number(value: int) -> int:
            self.ran.append(f"number {value}")
            return value

        @task
        async def add(value: int, more: int = 1) -> int:
            self.ran.append(f"add {value} {more}")
            return value + more

        @task
        async def total(values: list[int]) -> int:
            self.ran.append(f"total {values}")
            return sum(values)

        @task
        async def gated(value: int = 0) -> int:
            self.ran.append("gated")
            await self.gate.wait()
            return value

        @task
        async def flaky(value: int = 0) -> int:
            self.ran.append("flaky")
            if self.fails:
                raise ValueError("not yet")
            return value

        @task
        async def words(text: str) -> str:
            return text

        return [number, add, total, gated, flaky, words]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture(params=["memory", "sqlite"])
def start(request: pytest.FixtureRequest, tmp_path: Path, work: Work) -> Start:
    store = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"

    def runtime(**options: Any) -> Runtime:
        return Runtime(work.tasks(), store=store, **options)

    return runtime


@pytest.fixture
def durable(tmp_path: Path, work: Work) -> Start:
    def runtime(**options: Any) -> Runtime:
        return Runtime(work.tasks(), store=f"sqlite:///{tmp_path}/jobs.db", **options)

    return runtime


async def test_each_step_gets_the_result_of_the_one_before(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("number", 1), step("add"), step("add", more=10))
        assert await chain.result(timeout_s=5) == 12
        assert work.ran == ["number 1", "add 1 1", "add 2 10"]
        assert [job.state for job in chain.jobs] == [State.COMPLETED] * 3


async def test_a_group_in_a_chain_passes_all_results_in_order(start: Start) -> None:
    async with start() as runtime:
        chain = await runtime.chain(
            [call("number", 1), call("number", 2)],
            [step("total"), step("total")],
            step("total"),
        )
        assert await chain.result(timeout_s=5) == 6
        group = await runtime.group(call("number", 3), call("number", 4))
        assert await group.result(timeout_s=5) == [3, 4]


async def test_a_group_of_one_is_a_group(start: Start) -> None:
    async with start() as runtime:
        chain = await runtime.chain([call("number", 1)], step("total"), [step("add")])
        assert await chain.result(timeout_s=5) == [2]
        group = await runtime.group(call("number", 3), workflow_id="few")
        assert await group.result(timeout_s=5) == [3]
        found = await runtime.workflow("few")
        assert await found.result(timeout_s=5) == [3]


async def test_a_step_before_the_group_gives_its_result_to_each(start: Start) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("number", 5), [step("add", 1), step("add", 2)])
        assert await chain.result(timeout_s=5) == [6, 7]


async def test_after_waits_and_takes_nothing(start: Start, work: Work) -> None:
    async with start() as runtime:
        first = await runtime.enqueue("gated")
        second = await runtime.options(after=[first, first]).enqueue("number", 2)
        assert second.state is State.SCHEDULED
        assert runtime.queue_info("default").waiting == 1
        await eventually(lambda: work.ran == ["gated"])
        work.gate.set()
        assert await second.result(timeout_s=5) == 2
        assert runtime.queue_info("default").waiting == 0
        third = await runtime.options(after=[first, second]).enqueue("number", 3)
        assert await third.result(timeout_s=5) == 3  # its parents had ended already


async def test_what_waits_for_a_failed_job_is_cancelled(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("flaky"), step("add"), step("add"))
        with pytest.raises(JobFailed, match="not yet"):
            await chain.result(timeout_s=5)
        last = chain.jobs[-1]
        with pytest.raises(JobCancelled, match="ended as cancelled"):
            await last.result(timeout_s=5)
        assert [job.state for job in chain.jobs[1:]] == [State.CANCELLED] * 2
        assert work.ran == ["flaky"]
        assert runtime.queue_info("default").waiting == 0
        late = await runtime.options(after=[chain.jobs[0]]).enqueue("number", 1)
        assert await late.wait(timeout_s=5) is State.CANCELLED


async def test_one_failed_job_of_a_group_is_enough(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain([call("gated"), call("flaky")], step("total"))
        assert await chain.jobs[2].wait(timeout_s=5) is State.CANCELLED
        work.gate.set()
        assert await chain.jobs[0].wait(timeout_s=5) is State.COMPLETED
        await runtime.join()
        assert not any(text.startswith("total") for text in work.ran)


async def test_a_cancelled_child_never_runs(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("gated", 1), step("add"), step("add"))
        assert await chain.jobs[1].cancel("no longer wanted")
        with pytest.raises(JobCancelled, match="no longer wanted"):
            await chain.jobs[1].result(timeout_s=5)
        work.gate.set()
        assert await chain.jobs[0].result(timeout_s=5) == 1
        await runtime.join()
        assert chain.jobs[2].state is State.CANCELLED
        assert work.ran == ["gated"]


async def test_a_workflow_is_cancelled_as_a_whole(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("number", 1), step("gated"), step("add"))
        await eventually(lambda: "gated" in work.ran)
        assert await chain.cancel("enough") == 2
        states = [await job.wait(timeout_s=5) for job in chain.jobs]
        assert states == [State.COMPLETED, State.CANCELLED, State.CANCELLED]
        assert await chain.cancel() == 0


async def test_a_workflow_is_retried_from_where_it_stopped(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("number", 4), step("flaky"), step("add"), step("add"))
        with pytest.raises(JobFailed):
            await chain.result(timeout_s=5)
        await chain.jobs[-1].wait(timeout_s=5)
        assert await chain.retry() == 3
        with pytest.raises(JobFailed):  # it failed again, and again took the others with it
            await chain.result(timeout_s=5)
        await chain.jobs[-1].wait(timeout_s=5)
        work.fails = False
        assert await chain.retry() == 3
        assert await chain.result(timeout_s=5) == 6
        assert await chain.retry() == 0
        assert work.ran.count("number 4") == 1


async def test_a_child_is_not_retried_without_its_failed_parent(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("flaky", 1), step("add"))
        first, second = chain.jobs
        await second.wait(timeout_s=5)
        with pytest.raises(InvalidTransition, match=f"its parent {first.id} is failed"):
            await runtime.retry(second.id)
        work.fails = False
        await runtime.retry(first.id)
        await runtime.retry(second.id)
        assert await chain.result(timeout_s=5) == 2


async def test_a_result_that_does_not_fit_fails_the_job_that_takes_it(start: Start) -> None:
    async with start() as runtime:
        chain = await runtime.chain(call("number", 1), step("words"), step("words"))
        with pytest.raises(JobFailed, match="does not fit") as caught:
            await chain.result(timeout_s=5)
        assert caught.value.error_type == "InvalidArguments"
        assert await chain.jobs[2].wait(timeout_s=5) is State.CANCELLED


async def test_a_workflow_is_accepted_whole_or_not_at_all(start: Start) -> None:
    async with start(queue_capacity=3, concurrency=1) as runtime:
        runtime.pause("default")
        with pytest.raises(QueueFull):
            await runtime.chain(*[call("number", 1)] * 4)
        with pytest.raises(Exception, match="nope"):
            await runtime.chain(call("number", 1), step("nope"))
        assert (await runtime.list_jobs()).jobs == []
        chain = await runtime.chain(call("number", 1), step("add"), step("add"))
        with pytest.raises(QueueFull):  # jobs that are held count
            await runtime.enqueue("number", 1)
        runtime.resume("default")
        assert await chain.result(timeout_s=5) == 3


async def test_an_empty_workflow_is_refused(start: Start) -> None:
    async with start() as runtime:
        wrong: list[tuple[Any, ...]] = [(), ([],), (call("number", 1), [])]
        for steps in wrong:
            with pytest.raises(InvalidJob, match="needs at least one step"):
                await runtime.chain(*steps)


async def test_what_is_no_call_is_refused(start: Start) -> None:
    async def alone() -> None: ...

    async with start() as runtime:
        wrong: list[tuple[Any, ...]] = [(alone,), ([alone],), (call("number", 1), "number")]
        for steps in wrong:
            with pytest.raises(InvalidJob, match=r"give call\(task, ...\) or step"):
                await runtime.chain(*steps)
        with pytest.raises(InvalidJob, match=r"give call\(task, ...\) or step"):
            await runtime.group([call("number", 1)])
        for many in ([("number", 1)], "number", 3):
            with pytest.raises(InvalidJob, match=r"give call\(task, ...\) or step"):
                await runtime.enqueue_many(many)


async def test_a_workflow_is_found_by_its_id_and_the_id_is_taken(start: Start) -> None:
    async with start() as runtime:
        calls = (call("number", 1), [step("add"), step("add")], step("total"))
        made = await asyncio.gather(
            *(runtime.chain(*calls, workflow_id="order") for _ in range(3)), return_exceptions=True
        )
        [chain] = [one for one in made if not isinstance(one, BaseException)]
        assert sum(isinstance(one, JobConflict) for one in made) == 2
        found = await runtime.workflow("order")
        assert [[job.id for job in s] for s in found.steps] == [
            [job.id for job in s] for s in chain.steps
        ]
        assert await found.result(timeout_s=5) == 4
        await runtime.delete("order.1")
        with pytest.raises(UnknownJob, match="job 2 of 4 is gone"):
            await runtime.workflow("order")
        with pytest.raises(UnknownJob, match="is not kept"):
            await runtime.workflow("another")


async def test_more_parents_than_callers_may_wait(work: Work) -> None:
    settings = Settings(waiters_max=5, queue_capacity=1000)
    async with Runtime(work.tasks(), settings=settings) as runtime:
        chain = await runtime.chain([call("number", n) for n in range(50)], step("total"))
        assert await chain.jobs[-1].result(timeout_s=5) == sum(range(50))
        for _ in range(5):  # and they have not used up the callers' share
            assert await (await runtime.enqueue("number", 1)).result(timeout_s=5) == 1


async def test_join_and_drain_also_run_what_is_held(start: Start, work: Work) -> None:
    async with start() as runtime:
        chain = await runtime.chain(*[call("number", 1), step("add"), step("add")])
        await runtime.join()
        assert [job.state for job in chain.jobs] == [State.COMPLETED] * 3
        chain = await runtime.chain(*[call("number", 1), step("add"), step("add")])
        assert await runtime.drain(5)
        assert [job.state for job in chain.jobs] == [State.COMPLETED] * 3


async def test_in_memory_a_stop_ends_what_is_held(work: Work) -> None:
    runtime = Runtime(work.tasks())
    await runtime.start()
    chain = await runtime.chain(call("gated"), step("add"))
    await eventually(lambda: "gated" in work.ran)
    await runtime.stop(within_s=0)
    assert [job.state for job in chain.jobs] == [State.CANCELLED] * 2


@asynccontextmanager
async def running_until_gated(runtime: Runtime, work: Work) -> AsyncIterator[Runtime]:
    """Stops the runtime at the end, at once, while its gated task runs."""
    await runtime.start()
    try:
        yield runtime
        await eventually(lambda: "gated" in work.ran)
    finally:
        await runtime.stop(within_s=0)


async def test_a_restart_in_the_middle_goes_on_with_the_parents_results(
    durable: Start, work: Work
) -> None:
    async with running_until_gated(durable(), work) as runtime:
        await runtime.chain(
            [call("number", 1), call("number", 2)],
            step("total"),
            step("gated"),
            step("add", more=10),
            workflow_id="w",
        )
    work.gate.set()
    work.ran.clear()
    async with durable() as runtime:
        chain = await runtime.workflow("w")
        assert await chain.result(timeout_s=5) == 13
        assert work.ran == ["gated", "add 3 10"]


async def test_a_failed_workflow_is_retried_after_a_restart(durable: Start, work: Work) -> None:
    async with durable() as runtime:
        chain = await runtime.chain(call("number", 7), step("flaky"), step("add"), workflow_id="w")
        await chain.jobs[-1].wait(timeout_s=5)
    work.fails = False
    async with durable() as runtime:
        chain = await runtime.workflow("w")
        assert await chain.retry() == 2
        assert await chain.result(timeout_s=5) == 8
    async with durable() as runtime:  # what was revived is kept with the arguments it had
        assert await (await runtime.workflow("w")).result(timeout_s=5) == 8
    assert work.ran == ["number 7", "flaky", "flaky", "add 7 1"]


async def test_a_retried_step_has_its_parents_result_once_more(durable: Start, work: Work) -> None:
    async with durable() as runtime:
        chain = await runtime.chain(call("number", 7), step("flaky"), workflow_id="w")
        await chain.jobs[-1].wait(timeout_s=5)
        runtime.pause("default")
        await chain.retry()
    work.fails = False
    async with durable() as runtime:  # revived with its argument bound, and then recovered
        assert await (await runtime.workflow("w")).result(timeout_s=5) == 7


async def test_a_parent_that_is_gone_fails_what_needs_its_result(
    durable: Start, work: Work
) -> None:
    async with running_until_gated(durable(), work) as runtime:
        first = await runtime.enqueue("number", 1)
        await first.result(timeout_s=5)
        chain = await runtime.chain(
            [call("number", 1), call("gated")], step("total"), workflow_id="w"
        )
        after = await runtime.options(after=[first, chain.jobs[1]]).enqueue("number", 9)
        await chain.jobs[0].result(timeout_s=5)
        await runtime.delete(chain.jobs[0].id)
        await runtime.delete(first.id)
    work.gate.set()
    async with durable() as runtime:
        child = await runtime.find("w.2")
        with pytest.raises(JobFailed, match=r"parent w\.0 is not kept") as caught:
            await child.result(timeout_s=5)
        assert caught.value.error_type == "ParentGone"
        assert await (await runtime.find(after.id)).result(timeout_s=5) == 9


async def test_a_held_job_whose_task_is_gone_stays_parked(durable: Start, work: Work) -> None:
    async with running_until_gated(durable(), work) as runtime:
        await runtime.chain(call("gated", 1), step("add"), workflow_id="w")
    work.gate.set()
    everything = work.tasks
    work.tasks = lambda: [one for one in everything() if one.__name__ != "add"]  # type: ignore[method-assign]
    async with durable() as runtime:
        assert await (await runtime.find("w.0")).result(timeout_s=5) == 1
        assert (await runtime.find("w.1")).state is State.QUEUED
    work.tasks = everything  # type: ignore[method-assign]
    async with durable() as runtime:
        assert await (await runtime.workflow("w")).result(timeout_s=5) == 2


CRASHING = """
import asyncio, os, signal, sys
from worker_runtime import Runtime, call, step, task

@task
async def number(value: int) -> int:
    return value

@task
async def deadly(value: int, path: str) -> int:
    if not os.path.exists(path):
        open(path, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return value * 2

@task
async def total(values: list[int]) -> int:
    return sum(values)

async def main(store: str, path: str, is_first: bool) -> None:
    async with Runtime([number, deadly, total], store=store) as runtime:
        if is_first:
            chain = await runtime.chain(
                call("number", 3),
                [step("deadly", path=path), step("deadly", path=path)],
                step("total"),
                workflow_id="w",
            )
        else:
            chain = await runtime.workflow("w")
        print(await chain.result(timeout_s=10))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] == "first"))
"""


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=50)


async def test_a_kill_in_the_middle_loses_no_step(tmp_path: Path) -> None:
    program = tmp_path / "crashing.py"
    program.write_text(CRASHING)
    store, marker = f"sqlite:///{tmp_path}/jobs.db", str(tmp_path / "marker")
    ended = []
    for life in ("first", "second"):
        arguments = [sys.executable, str(program), store, marker, life]
        ended.append(await asyncio.to_thread(_run, arguments))
    assert ended[0].returncode == -signal.SIGKILL
    assert (ended[1].returncode, ended[1].stdout) == (0, "12\n"), ended[1].stderr
