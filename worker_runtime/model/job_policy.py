"""What holds for one job: what its own options say, or else its task."""

from __future__ import annotations

from msgspec import UNSET

from worker_runtime.model.job import Job
from worker_runtime.model.tasks.definition import Retry


def timeout_of(job: Job) -> float | None:
    """The longest that one attempt of `job` may run, in seconds."""
    options = job.options
    if options is not None and options.timeout_s is not UNSET:
        return options.timeout_s
    return job.task.timeout_s


def retry_of(job: Job) -> Retry:
    options = job.options
    if options is not None and options.retry is not UNSET:
        return options.retry or Retry(max_attempts=1)
    return job.task.retry


def ttl_of(job: Job) -> float | None:
    """How long `job` is kept once it has ended, in seconds; None: as long as the history says."""
    options = job.options
    if options is not None and options.result_ttl_s is not UNSET:
        return options.result_ttl_s
    return job.task.result_ttl_s
