"""Refusing jobs by load, and by a wait that their callers cannot afford."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.fleet_worker import serving
from tests.support.helpers import eventually
from worker_runtime import Overloaded, QueueFull, Runtime, Settings, task
from worker_runtime.clock.source import SYSTEM
from worker_runtime.services.forecast import Forecast
from worker_runtime.services.overload import Gate, OverloadControl
from worker_runtime.services.resources import Resources


def test_a_gate_opens_again_only_well_below_its_limit() -> None:
    gate = Gate("CPU", 90.0)
    states = []
    for value in (50, 90, 91, 89, 86, 85, 90, 95):
        gate.update(value)
        states.append(gate.is_closed)
    assert states == [False, False, True, True, True, False, False, True]


def test_a_short_look_at_the_cpu_does_not_close_the_door_but_opens_it(tmp_path: Path) -> None:
    control = OverloadControl(
        Forecast([], SYSTEM),
        max_cpu_percent=90,
        max_memory_percent=None,
        sampled_every_s=30,
        clock=SYSTEM,
    )
    sample = Resources(interval_s=30, root=tmp_path, clock=SYSTEM).latest
    seen = []
    for cpu_percent, cpu_over_s in ((99, 0.5), (50, 30), (99, 30), (88, 1), (50, 1), (99, 1)):
        at = msgspec.structs.replace(sample, cpu_percent=cpu_percent, cpu_over_s=cpu_over_s)
        seen.append(control.observe(at))
    assert seen == [False, False, True, True, False, False]


go_on = threading.Event()


@task(run_in="thread")
def wait_for_test() -> None:
    assert go_on.wait(10)


@task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.fixture(autouse=True)
def _waiting() -> Iterator[None]:
    go_on.clear()
    yield
    go_on.set()


async def test_above_a_limit_new_jobs_are_refused_at_once_and_accepted_again() -> None:
    async with serving(nap, max_memory_percent=0.001, health_check_interval_s=0.02) as worker:
        runtime = worker.runtime
        body = {"task": "nap", "args": [0]}

        async def refused() -> bool:
            return (await worker.ask("POST", "/v1/jobs", body)).status == 503

        await eventually(refused)
        with pytest.raises(Overloaded, match=r"memory is at .* %, above 0.001 %") as error:
            await runtime.enqueue(nap, 0)
        assert (error.value.retry_after_s, error.value.position) == (1.0, 1)
        answer = await worker.ask("POST", "/v1/jobs", body)
        assert answer.headers["Retry-After"] == "1"
        assert answer.document["code"] == "overloaded"
        assert (answer.document["position"], answer.document["predicted_wait_s"]) == (1, 0.0)
        submitted = {"payload": {"function": "nap", "args": [0]}}
        assert (await worker.ask("POST", "/task/submit", submitted)).status == 503
        await runtime.parts.resources.stop()
        sample = runtime.parts.resources.latest
        runtime.parts.overload.observe(msgspec.structs.replace(sample, memory_percent=0.0))
        assert (await worker.ask("POST", "/v1/jobs", body)).status == 202


async def test_a_wait_longer_than_the_callers_deadline_is_refused() -> None:
    settings = Settings.from_environment({}, concurrency=1, queue_capacity=10)
    async with Runtime([nap, wait_for_test], settings=settings) as runtime:
        first = await runtime.enqueue(nap, 0.2)
        await first.wait(timeout_s=5)
        await runtime.enqueue(wait_for_test)
        for _ in range(4):
            await runtime.enqueue(nap, 0.2)
        hurried = runtime.options(expires_s=0.3)
        with pytest.raises(Overloaded, match="would wait") as refused:
            await hurried.enqueue(nap, 0.0)
        assert refused.value.position == 5
        assert (refused.value.predicted_wait_s or 0.0) >= 0.89  # 4 and a half naps
        assert refused.value.retry_after_s == 1.0
        patient = await runtime.options(expires_s=60).enqueue(nap, 0.0)
        go_on.set()
        await patient.wait(timeout_s=10)
        assert runtime.parts.table.get(patient.id) is not None


async def test_a_full_queue_tells_the_place_and_the_wait() -> None:
    settings = Settings.from_environment({}, concurrency=1, queue_capacity=2)
    async with Runtime([nap, wait_for_test], settings=settings) as runtime:
        await (await runtime.enqueue(nap, 0.1)).wait(timeout_s=5)
        await runtime.enqueue(wait_for_test)
        await runtime.enqueue(nap, 0.0)
        await runtime.enqueue(nap, 0.0)
        with pytest.raises(QueueFull) as refused:
            await runtime.enqueue(nap, 0.0)
        go_on.set()
        await runtime.join()
    assert refused.value.position == 3
    assert (refused.value.predicted_wait_s or 0.0) >= 0.24


async def test_before_a_job_has_ended_those_that_run_tell_how_long_they_take() -> None:
    settings = Settings.from_environment({}, concurrency=1, queue_capacity=1)
    async with Runtime([wait_for_test], settings=settings) as runtime:
        first = await runtime.enqueue(wait_for_test)
        await runtime.enqueue(wait_for_test)
        await eventually(lambda: time.time() > (first.job.started_at or math.inf) + 0.1)
        with pytest.raises(QueueFull) as refused:
            await runtime.enqueue(wait_for_test)
        go_on.set()
        await runtime.join()
    assert refused.value.position == 2
    assert (refused.value.predicted_wait_s or 0.0) > 0.1


async def test_nothing_is_measured_where_nothing_asks_for_it() -> None:
    async with Runtime([nap], settings=Settings.from_environment({})) as runtime:
        names = {other.get_name() for other in asyncio.all_tasks()}
        assert runtime.parts.overload.has_limits is False
    assert "resources" not in names
