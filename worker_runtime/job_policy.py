"""What holds for one job: what its own options say, or else its task."""

from __future__ import annotations

import msgspec

from worker_runtime.job import Job
from worker_runtime.task import Retry


def timeout_of(job: Job) -> float | None:
    """The longest that one attempt of `job` may run, in seconds."""
    if job.options is not None and job.options.timeout_s is not msgspec.UNSET:
        return job.options.timeout_s
    return job.task.timeout_s


def retry_of(job: Job) -> Retry:
    if job.options is not None and job.options.retry is not msgspec.UNSET:
        return job.options.retry or Retry(max_attempts=1)
    return job.task.retry


def ttl_of(job: Job) -> float | None:
    """How long `job` is kept once it has ended, in seconds; None: as long as the history says."""
    if job.options is not None and job.options.result_ttl_s is not msgspec.UNSET:
        return job.options.result_ttl_s
    return job.task.result_ttl_s
