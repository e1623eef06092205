"""A23: text that UTF-8 has no form for is cleaned where it comes in, and spoils nothing for others.

Half a surrogate pair comes out of a file's name, an environment variable or a broken escape; Python
code may put it everywhere.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet_worker import serving
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from tests.whole.contract import surrogate_tasks as tasks
from worker_runtime import (
    ConfigurationError,
    JobFailed,
    Runtime,
    Settings,
    State,
    UnknownJob,
)
from worker_runtime.model.activity import Counts

Ask = Callable[..., Awaitable[None]]

HALF = "a\ud800b"
CLEAN = "a\\ud800b"
MSGPACK = {"Accept": "application/msgpack"}


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("server").url)
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


@asynccontextmanager
async def served(*fns: Callable[..., Any], **settings: Any) -> AsyncIterator[tuple[Runtime, Ask]]:
    """A runtime, and a function that asks its HTTP doors and fails for any refusal."""
    async with serving(*fns, processes=1, **settings) as worker:

        async def ask(path: str, **headers: str) -> None:
            async with worker.http.get(worker.url + path, headers=headers) as answer:
                assert answer.status == 200, (path, answer.status, await answer.read())

        yield worker.runtime, ask


async def listed(ask: Ask, *others: str) -> None:
    """Everything that lists jobs answers, in both formats."""
    for path in ("/v1/jobs", "/v1/tasks", "/v1/queues", "/v1/statistics", "/metrics", *others):
        await ask(path)
        await ask(path, **MSGPACK)


async def test_an_option_is_cleaned(store: str) -> None:
    async with served(tasks.echo, store=store) as (runtime, ask):
        options: dict[str, str] = {"label": HALF}
        if not store.startswith("redis"):  # which lacks both
            options |= {"key": HALF, "unique_key": HALF}
        job = await runtime.options(**options).enqueue(tasks.echo, "x")  # type: ignore[arg-type]
        assert await job.result(timeout_s=10) == "x"
        assert job.info().label == CLEAN
        await listed(ask, f"/v1/jobs/{job.id}")
    if store != "memory://":
        async with Runtime([tasks.echo], store=store, settings=Settings()) as runtime:
            assert (await runtime.find(job.id)).info().label in (CLEAN, None)


async def test_two_broken_keys_are_still_two(store: str) -> None:
    if store.startswith("redis"):
        pytest.skip("unique_key is refused on Redis")
    async with Runtime([tasks.echo], store=store, settings=Settings()) as runtime:
        runtime.pause("default")
        one = await runtime.options(unique_key="\ud800").enqueue(tasks.echo, "x")
        same = await runtime.options(unique_key="\ud800").enqueue(tasks.echo, "x")
        other = await runtime.options(unique_key="\ud801").enqueue(tasks.echo, "x")
        assert (one.id == same.id, one.id == other.id) == (True, False)


@pytest.mark.parametrize("fn", [tasks.tell, tasks.tell_in_a_thread, tasks.tell_in_a_child])
async def test_progress_and_metrics_are_cleaned(fn: Callable[..., Any], store: str) -> None:
    async with served(fn, store=store) as (runtime, ask):
        job = await runtime.enqueue(fn)
        assert await job.wait(timeout_s=10) is State.COMPLETED
        activity = job.job.activity
        assert activity is not None
        assert activity.progress is not None
        assert activity.progress.step == CLEAN
        assert activity.progress.counts == Counts(item=CLEAN)
        assert [metric.name for metric in activity.metrics] == [CLEAN]
        await listed(ask, f"/v1/jobs/{job.id}")


@pytest.mark.parametrize("fn", [tasks.fail, tasks.fail_in_a_thread, tasks.fail_in_a_child])
async def test_errors_are_cleaned(fn: Callable[..., Any], store: str) -> None:
    async with served(fn, store=store) as (runtime, ask):
        job = await runtime.enqueue(fn)
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout_s=10)
        assert caught.value.error == f"{CLEAN}; note: {CLEAN}"
        await listed(ask, f"/v1/jobs/{job.id}")


async def test_the_words_of_a_cancel_are_cleaned_and_bounded(store: str) -> None:
    async with served(tasks.hang, tasks.echo, store=store, concurrency=1) as (runtime, ask):
        running = await runtime.enqueue(tasks.hang)
        await eventually(lambda: running.state is State.RUNNING)
        waiting = await runtime.enqueue(tasks.echo, "x")
        later = await runtime.options(delay_s=60).enqueue(tasks.echo, "x")
        for job in (waiting, later, running):
            assert await job.cancel(HALF + "x" * 100_000)
            await job.wait(timeout_s=10)
            assert len((job.info().error or "").encode()) <= 8192
            await listed(ask, f"/v1/jobs/{job.id}")


async def test_results_and_arguments_spoil_no_list(store: str) -> None:
    async with served(tasks.give, tasks.echo, store=store) as (runtime, ask):
        job = await runtime.enqueue(tasks.give)
        await job.wait(timeout_s=10)
        if store == "memory://":  # it has no need to encode them
            taken = await runtime.enqueue(tasks.echo, HALF)
            assert await taken.result(timeout_s=10) == HALF
        await listed(ask, f"/v1/jobs/{job.id}")


async def test_operations_show_arguments_cleaned() -> None:
    async with served(tasks.compute, dialects=("operations",)) as (runtime, ask):
        job = await runtime.enqueue(tasks.compute, HALF)
        await job.wait(timeout_s=10)
        await ask(f"/api/v1/operations/{job.id}")
        await ask("/api/v1/operations")


async def test_a_question_with_such_a_text_finds_nothing(store: str) -> None:
    async with Runtime([tasks.echo], store=store, settings=Settings()) as runtime:
        for ask in (runtime.find, runtime.retry, runtime.delete, runtime.cancel, runtime.inspect):
            with pytest.raises(UnknownJob):
                await ask(HALF)
        for name in ("queue", "task"):
            assert (await runtime.list_jobs(**{name: HALF})).jobs == []  # type: ignore[arg-type]
            assert not (await runtime.retry_many(**{name: HALF})).jobs  # type: ignore[arg-type]


async def test_what_other_processes_write_into_redis_is_cleaned(server: RedisServer) -> None:
    async with served(tasks.echo, store=server.url) as (runtime, ask):
        now_ms = 1_000_000_000_000
        payload = {"t": None, "f": HALF, "a": (), "k": {}, "et": now_ms, "x": {"label": HALF}}
        with server.client() as client:
            client.set("arq:job:odd", pickle.dumps(payload))
            client.zadd("arq:queue", {"odd": now_ms})
            await listed(ask, "/v1/jobs/odd")
            result = {**payload, "s": False, "r": ValueError(HALF), "st": now_ms, "ft": now_ms}
            client.set("arq:result:ended", pickle.dumps({**result, "q": "arq:queue"}))
            await listed(ask, "/v1/jobs/ended")
        job = await runtime.job("ended")
        assert job.failure is not None
        assert job.failure.error == CLEAN


def test_a_setting_of_bytes_that_are_no_text_is_refused_by_name() -> None:
    for name in ("WORKER_NAME", "WORKER_COLOR"):
        with pytest.raises(ConfigurationError, match=f"{name}=.*must be a line of text"):
            Settings.from_environment({name: "caf\udce9"})
