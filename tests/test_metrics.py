"""What a scrape shows: every figure of a runtime, with labels from closed sets only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.parser import text_string_to_metric_families

from worker_runtime import JobFailed, Retry, Runtime, task
from worker_runtime.metrics import cumulative, exposition

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(runtime: Runtime, *others: CollectorRegistry) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(runtime, *others)
        for sample in family.samples
    }


def families(runtime: Runtime, *others: CollectorRegistry) -> Iterator[Metric]:
    yield from text_string_to_metric_families(exposition(runtime, *others).decode())


def ended(task_name: str, state: str, reason: str = "") -> tuple[str, tuple[tuple[str, str], ...]]:
    labels = (("reason", reason), ("state", state), ("task", task_name))
    return "worker_runtime_jobs_ended_total", labels


@task(run_in="process")
def triple(n: int) -> int:
    return 3 * n


@task
async def double(n: int) -> int:
    return 2 * n


@task(retry=Retry(max_attempts=3, delay_s=0.0))
async def fail() -> None:
    raise ValueError("no")


async def test_jobs_are_counted_by_task_state_and_reason() -> None:
    async with Runtime([double, fail]) as runtime:
        for n in range(3):
            await (await runtime.enqueue(double, n)).result(timeout_s=5)
        with pytest.raises(JobFailed):
            await (await runtime.enqueue(fail)).result(timeout_s=5)
        await (await runtime.options(delay_s=60).enqueue(double, 9)).cancel()
        samples = scrape(runtime)

    assert samples["worker_runtime_jobs_accepted_total", (("task", "double"),)] == 4
    assert samples[ended("double", "completed")] == 3
    assert samples[ended("double", "cancelled")] == 1
    assert samples[ended("fail", "failed", "error")] == 1
    assert samples[ended("fail", "failed", "timeout")] == 0
    assert samples["worker_runtime_jobs_requeued_total", (("task", "fail"),)] == 2
    assert samples["worker_runtime_history_jobs", ()] == 5


def test_buckets_hold_all_below_their_bound_and_some_bounds_may_be_left_out() -> None:
    counts = [1, 0, 4, 2]
    whole = [("1", 1.0), ("2.5", 1.0), ("10", 5.0), ("+Inf", 7.0)]
    assert cumulative((1, 2.5, 10), counts) == whole
    assert cumulative((1, 2.5, 10), iter(counts), {10}) == whole[2:]
    with pytest.raises(ValueError, match="shorter"):
        cumulative((1, 2.5, 10), counts[:3])


async def test_the_histogram_is_cumulative_and_counts_each_attempt() -> None:
    async with Runtime([double, fail]) as runtime:
        with pytest.raises(JobFailed):
            await (await runtime.enqueue(fail)).result(timeout_s=5)
        samples = scrape(runtime)

    name = "worker_runtime_attempt_duration_seconds"
    buckets = [
        (float(dict(labels)["le"]), value)
        for (sample, labels), value in samples.items()
        if sample == f"{name}_bucket" and dict(labels)["task"] == "fail"
    ]
    counts = [value for _, value in sorted(buckets)]
    assert counts == sorted(counts)
    assert counts[-1] == samples[f"{name}_count", (("task", "fail"),)] == 3
    assert samples[f"{name}_sum", (("task", "fail"),)] > 0


async def test_queues_show_what_waits_and_runs() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        started.set()
        await release.wait()

    async with Runtime([hold], concurrency=1, queue_capacity=7) as runtime:
        running = await runtime.enqueue(hold)
        await started.wait()
        ready = await runtime.enqueue(hold)
        await runtime.options(delay_s=3600).enqueue(hold)
        runtime.pause("default")
        samples = scrape(runtime)
        release.set()
        await running.result(timeout_s=5)
        await ready.cancel()

    shown = {
        name.removeprefix("worker_runtime_queue_"): value
        for (name, labels), value in samples.items()
        if labels == (("queue", "default"),)
    }
    assert shown == {
        "ready": 1,
        "scheduled": 1,
        "running": 1,
        "concurrency": 1,
        "capacity": 7,
        "paused": 1,
    }


async def test_the_process_and_the_executors_are_shown() -> None:
    async with Runtime([double], threads=3) as runtime:
        samples = scrape(runtime)
        assert samples["worker_runtime_accepting", ()] == 1
        runtime.quiet()
        assert scrape(runtime)["worker_runtime_accepting", ()] == 0
    assert samples["worker_runtime_executor_size", (("executor", "thread"),)] == 3
    assert samples["worker_runtime_executor_abandoned", (("executor", "loop"),)] == 0
    assert samples["process_open_fds", ()] > 0


async def test_other_registries_are_appended() -> None:
    registry = CollectorRegistry()
    Counter("worker_requests", "Requests.", ["worker"], registry=registry).labels("w").inc()
    async with Runtime([double]) as runtime:
        samples = scrape(runtime, registry)
    assert samples["worker_requests_total", (("worker", "w"),)] == 1
    assert ended("double", "completed") in samples


async def test_names_follow_the_conventions(tmp_path: Path) -> None:
    async with Runtime([double], store=f"sqlite:///{tmp_path}/jobs.db") as runtime:
        await (await runtime.enqueue(double, 1)).result(timeout_s=5)
        own = [f for f in families(runtime) if f.name.startswith("worker_runtime_")]
    assert len(own) >= 15
    for family in own:
        assert family.documentation
        assert not family.name.endswith(("_ms", "_millis", "_percent"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
            assert set(sample.labels) <= {
                "task", "state", "reason", "queue", "executor", "store", "le", "version", "python"
            }  # fmt: skip


async def test_children_are_counted_by_state_and_by_why_they_ended() -> None:
    async with Runtime([double, triple], processes=1) as runtime:
        assert await (await runtime.enqueue(triple, 2)).result(timeout_s=10) == 6
        samples = scrape(runtime)
    assert samples["worker_runtime_children", (("state", "idle"),)] == 1
    assert samples["worker_runtime_children", (("state", "busy"),)] == 0
    assert samples["worker_runtime_children_ended_total", (("reason", "crashed"),)] == 0
    assert samples["worker_runtime_children_encode_seconds_total", ()] > 0
    assert samples["worker_runtime_children_transfer_seconds_total", ()] > 0
    async with Runtime([double]) as runtime:
        assert not any("children" in name for name, _ in scrape(runtime))
