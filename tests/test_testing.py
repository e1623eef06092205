"""The test doubles behave as what they stand for."""

from __future__ import annotations

import pytest

from worker_runtime import JobContext, JobInterrupted, Runtime
from worker_runtime.testing import RecordingContext


def backtest(ctx: JobContext, bars: int) -> int:
    for bar in range(bars):
        ctx.raise_if_cancelled()
        ctx.report(bar + 1, bars, step=f"bar {bar + 1}")
    ctx.record_metric("bars", bars)
    return bars


def test_what_a_task_reports_is_recorded() -> None:
    context = RecordingContext(state="shared", label="nightly")
    assert backtest(context, 4) == 4
    assert [report.percentage for report in context.reports] == [25.0, 50.0, 75.0, 100.0]
    assert context.reports[-1].step == "bar 4"
    assert [(metric.name, metric.value) for metric in context.metrics] == [("bars", 4.0)]
    assert (context.job_id, context.attempt, context.state) == ("job-1", 1, "shared")


def test_a_task_is_stopped_where_it_looks() -> None:
    context = RecordingContext(stop_after_reports=2)
    with pytest.raises(JobInterrupted):
        backtest(context, 4)
    assert len(context.reports) == 2
    assert context.cancelled


def test_a_bad_report_is_refused_as_it_would_be() -> None:
    context = RecordingContext()
    with pytest.raises(ValueError, match="progress must be finite"):
        context.report(float("nan"), 1)
    assert context.reports == []


async def test_the_same_task_runs_in_a_runtime() -> None:
    async with Runtime([backtest]) as runtime:
        job = await runtime.enqueue(backtest, 4)
        assert await job.result(timeout_s=5) == 4
