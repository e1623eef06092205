"""What a task reports is kept, bounded and readable; bad numbers are refused."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from tests.support.jobs import make_job
from worker_runtime import JobContext, JobInterrupted
from worker_runtime.clock.source import SYSTEM
from worker_runtime.model.activity import Counts, Progress
from worker_runtime.model.context import METRICS_KEPT_MAX, STEP_CHARS_MAX, RecordReporter
from worker_runtime.model.job import Job


def make_context() -> tuple[JobContext, Job]:
    job = make_job()
    context = JobContext(
        job_id=job.id,
        task="t",
        queue="default",
        attempt=1,
        reporter=RecordReporter(job),
        clock=SYSTEM,
    )
    return context, job


def progress_of(job: Job) -> Progress:
    assert job.activity is not None
    assert job.activity.progress is not None
    return job.activity.progress


def test_the_latest_report_is_kept() -> None:
    context, job = make_context()
    context.report(1, 4)
    context.report(3, 4, step="x" * 10_000)
    progress = progress_of(job)
    assert (progress.done, progress.total, progress.percentage) == (3, 4, 75.0)
    assert progress.step == "x" * STEP_CHARS_MAX


def test_the_percentage_stays_between_0_and_100() -> None:
    def percentage(done: float, total: float | None) -> float:
        return Progress(done, total, None, 0.0).percentage

    assert percentage(5, 4) == 100.0
    assert percentage(-1, 4) == 0.0
    assert percentage(5, None) == 0.0
    assert percentage(0, 0) == 0.0


def test_remaining_seconds_follow_the_average_rate() -> None:
    progress = Progress(25, 100, None, 1010.0)
    assert progress.remaining_s(1000.0) == 30.0
    assert Progress(100, 100, None, 1010.0).remaining_s(1000.0) == 0.0
    assert Progress(150, 100, None, 1010.0).remaining_s(1000.0) == 0.0
    assert Progress(25, 100, None, 990.0).remaining_s(1000.0) == 0.0  # the clock was set back
    assert progress.remaining_s(None) is None
    assert Progress(0, 100, None, 1010.0).remaining_s(1000.0) is None
    assert Progress(5, None, None, 1010.0).remaining_s(1000.0) is None


@pytest.mark.parametrize(
    ("done", "total"), [(math.nan, 1), (math.inf, 1), (1, math.nan), (1, math.inf), (1, -1)]
)
def test_reports_that_make_no_sense_are_refused(done: float, total: float) -> None:
    context, job = make_context()
    with pytest.raises(ValueError, match="must be"):
        context.report(done, total)
    assert job.activity is None


class Real(float):
    """As numpy.float64 is one."""


@pytest.mark.parametrize(
    "number", [20 * 10**18, -(10**30), 10**300, Decimal("1.5"), Fraction(1, 3), Real(3), True, 7]
)
def test_a3_numbers_of_any_kind_and_size_are_made_to_fit(number: Any) -> None:
    context, job = make_context()
    context.report(number, abs(number) * 2)
    context.record_metric("wei", number)
    progress = progress_of(job)
    assert progress.done == pytest.approx(float(number))
    assert {type(progress.done), type(progress.total)} <= {int, float}
    assert job.activity is not None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(progress), type=Progress) == progress
    assert type(job.activity.metrics[0].value) is float


@pytest.mark.parametrize("number", [10**400, -(10**400), 10**6000], ids=["400", "-400", "6000"])
def test_a3_a_number_that_no_float_holds_is_refused_at_the_call(number: int) -> None:
    context, job = make_context()
    with pytest.raises(ValueError, match="must be finite"):
        context.report(number)
    with pytest.raises(ValueError, match="must be finite"):
        context.report(1, number)
    with pytest.raises(ValueError, match="must be finite"):
        context.record_metric("x", number)
    assert job.activity is None


def test_a3_counts_are_whole_numbers_of_64_bits() -> None:
    context, job = make_context()
    context.report(1, counts=Counts(steps_done=10**30, items_total=3.0))  # type: ignore[arg-type]
    assert progress_of(job).counts == Counts(steps_done=2**63 - 1, items_total=3)
    for wrong in (1.5, "1", math.nan, math.inf, object()):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            context.report(1, counts=Counts(steps_done=wrong))  # type: ignore[arg-type]


def test_the_newest_metrics_are_kept_and_the_others_counted() -> None:
    context, job = make_context()
    for i in range(METRICS_KEPT_MAX + 5):
        context.record_metric("loss", i)
    with pytest.raises(ValueError, match="metric 'loss' must be finite, not nan"):
        context.record_metric("loss", math.nan)
    assert job.activity is not None
    assert len(job.activity.metrics) == METRICS_KEPT_MAX
    assert job.activity.metrics[0].value == 5.0
    assert job.activity.metrics_dropped == 5


def test_an_ended_job_takes_no_more_reports() -> None:
    context, job = make_context()
    job.ended_at = 1.0
    context.report(1, 2)
    context.record_metric("loss", 1)
    assert job.activity is None


def test_the_checkpoint_raises_once_told_to_stop() -> None:
    context, job = make_context()
    context.raise_if_cancelled()
    context.stop()
    assert context.cancelled
    with pytest.raises(JobInterrupted, match=f"job {job.id} was told to stop"):
        context.raise_if_cancelled()
    assert not issubclass(JobInterrupted, Exception)
