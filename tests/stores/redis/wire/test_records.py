"""What of a job's options stands in its record, where arq's readers pass over it."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.jobs import make_job
from worker_runtime.errors import InvalidArguments, InvalidJob
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.stores.redis.wire.layout import Wire
from worker_runtime.stores.redis.wire.records import Records


@pytest.fixture(params=["msgpack", "json", "pickle"])
def records(request: pytest.FixtureRequest) -> Records:
    return Records(Wire.named(request.param), is_plain=True, payload_bytes_max=10_000)


def back(records: Records, job: Job) -> JobOptions | None:
    found = records.wire.decode_job(records.payload(job))
    return records.job(job.id, found, job.task, job.queue, 0).options


def test_options_stand_in_the_record_in_their_order(records: Records) -> None:
    options = JobOptions(
        timeout_s=None,
        retry=Retry(max_attempts=7),
        result_ttl_s=5.0,
        expires_at=9.0,
        label="l",
        key="k",
        sent="{}",
    )
    job = make_job(options=options)
    extra = records.wire.decode_job(records.payload(job)).extra
    assert extra is not None
    retry = {"max_attempts": 7, "delay_s": 1.0, "factor": 2.0, "delay_max_s": 600.0, "jitter": 0.25}
    assert list(extra.items()) == [
        ("timeout_s", None),
        ("result_ttl_s", 5.0),
        ("retry", retry),
        ("expires_at", 9.0),
        ("label", "l"),
        ("sent", "{}"),
    ]
    assert back(records, job) == JobOptions(
        None, Retry(max_attempts=7), 5.0, 9.0, label="l", sent="{}"
    )
    job.options = JobOptions(retry=None)
    assert back(records, job) == job.options
    job.options = None
    assert back(records, job) is None


def test_a_retry_that_names_classes_does_not_travel(records: Records) -> None:
    job = make_job(options=JobOptions(retry=Retry(only_for=(ValueError,))))
    with pytest.raises(InvalidJob, match="only_for names classes, which do not travel"):
        records.payload(job)


@pytest.mark.parametrize(
    "extra", [{"later": 1}, {"retry": {"later": 1}}, {"retry": {"max_attempts": "many"}}]
)
def test_options_of_another_making_are_refused(records: Records, extra: dict[str, object]) -> None:
    job = make_job()
    found = records.wire.decode_job(records.payload(job))
    found = msgspec.structs.replace(found, extra=extra)
    with pytest.raises(InvalidArguments, match="the job's options cannot be read"):
        records.job(job.id, found, job.task, job.queue, 0)
