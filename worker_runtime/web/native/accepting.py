"""What a request says about a new job becomes its options, and how long its answer may wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.acceptance.options import WIRE, EnqueueOptions, enqueue_options
from worker_runtime.clock.source import Clock
from worker_runtime.contracts.job_documents import NewJob
from worker_runtime.errors import InvalidJob, Unavailable, UnknownJob
from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority
from worker_runtime.runtime import Runtime
from worker_runtime.web.wire.query import number
from worker_runtime.web.wire.waits import JobWaits

WAIT_MAX_S = 60.0


def options_of(clock: Clock, new: NewJob, after: Sequence[JobHandle[Any]] = ()) -> EnqueueOptions:
    """`after` are the jobs that `new.after` names. Raises InvalidJob."""
    if new == NewJob(new.task, new.args, new.kwargs):
        return WIRE
    return enqueue_options(
        clock,
        job_id=new.id,
        queue=new.queue,
        priority=None if new.priority is None else _priority(new.priority),
        delay_s=new.delay_s,
        at=new.at,
        timeout_s=new.timeout_s,
        result_ttl_s=new.result_ttl_s,
        expires_s=new.expires_s,
        label=new.label,
        key=new.key,
        unique_key=new.unique_key,
        unique_for_s=new.unique_for_s,
        after=after,
        wire=True,
    )


def _priority(name: str) -> Priority:
    try:
        return Priority.named(name[:40])
    except ValueError as error:
        raise InvalidJob(str(error)) from None


async def parents_of(runtime: Runtime, new: NewJob) -> list[JobHandle[Any]]:
    """Raises InvalidJob where a job that is to come first is not kept."""
    try:
        return [await runtime.find(job_id) for job_id in new.after]
    except UnknownJob as error:
        raise InvalidJob(f"`after`: {error}") from None


def asked_wait_s(request: web.Request) -> float:
    """`?wait_s=`: how long the answer may wait for the job's end, 0 to 60 seconds."""
    return number(request, "wait_s", low=0.0, high=WAIT_MAX_S, default=0.0)


async def ended_within(waits: JobWaits, job: Job, seconds: float) -> bool:
    """Whether the job ended in time. The job was accepted, so that not being able to wait for it is
    no refusal."""
    try:
        return await waits.ended_within(job, seconds)
    except Unavailable:
        return False
