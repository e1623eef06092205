"""Calls that are accepted together, and each on its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_runtime import (
    InvalidArguments,
    JobHandle,
    Runtime,
    UnknownQueue,
    UnknownTask,
    call,
    task,
)
from worker_runtime.acceptance.options import WIRE, EnqueueOptions


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@pytest.mark.parametrize("is_durable", [False, True])
async def test_each_call_is_accepted_or_refused_on_its_own(
    is_durable: bool, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db" if is_durable else "memory://"
    named = EnqueueOptions(job_id="once", must_encode=True, wire=True)
    async with Runtime([add], store=store) as runtime:
        answers = await runtime.doorway.enqueue_each(
            [
                (WIRE, call("add", 1)),
                (WIRE, call("nope")),
                (WIRE, call("add", "x")),
                (named, call("add", 5)),
                (named, call("add", 5)),
                (EnqueueOptions(queue="nope"), call("add", 1)),
            ]
        )
        assert [type(answer) for answer in answers] == [
            JobHandle,
            UnknownTask,
            InvalidArguments,
            JobHandle,
            JobHandle,
            UnknownQueue,
        ]
        first, again = answers[3], answers[4]
        assert isinstance(first, JobHandle)
        assert isinstance(again, JobHandle)
        assert first.job is again.job
        assert (first.is_new, again.is_new) == (True, False)
        assert await first.result(timeout_s=5) == 7


async def test_results_for_a_wire_must_be_encodable_also_without_other_options() -> None:
    @task
    async def opaque() -> object:
        return object()

    async with Runtime([opaque]) as runtime:
        handle = await runtime.doorway.enqueue_with(WIRE, "opaque")
        await handle.wait(timeout_s=5)
        assert handle.info().reason == "unencodable"
        assert await (await runtime.enqueue("opaque")).result(timeout_s=5) is not None
