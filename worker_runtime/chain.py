"""Chains and groups: several jobs, accepted together, that wait for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from worker_runtime.enqueue import Call, EnqueueOptions
from worker_runtime.errors import InvalidJob, UnknownJob
from worker_runtime.handle import JobHandle, WorkflowHandle
from worker_runtime.job import Job
from worker_runtime.job_id import check_job_id
from worker_runtime.task import JobOptions

if TYPE_CHECKING:
    from worker_runtime.runtime import Runtime

JOBS_MAX = 10_000


async def enqueue_chain(
    runtime: Runtime, steps: Sequence[Call[Any] | Sequence[Call[Any]]], workflow_id: str | None
) -> WorkflowHandle:
    """See `Runtime.chain`."""
    groups = [[step] if isinstance(step, Call) else list(step) for step in steps]
    if not groups or not all(groups):
        raise InvalidJob("a chain needs a step, and each step a call")
    if sum(map(len, groups)) > JOBS_MAX:
        raise InvalidJob(f"a workflow has at most {JOBS_MAX} jobs")
    workflow_id = runtime.new_job_id() if workflow_id is None else check_job_id(workflow_id)
    made: list[list[Job]] = []
    number = 0
    for index, calls in enumerate(groups):
        before = made[-1] if made else []
        takes: Literal["one", "all"] = "one" if index and len(groups[index - 1]) == 1 else "all"
        jobs = []
        for call in calls:
            overrides = JobOptions(
                label=f"{workflow_id} {index}/{len(groups)}",
                after=tuple(job.id for job in before),
                takes_results=takes if before else None,
            )
            options = EnqueueOptions(job_id=f"{workflow_id}.{number}", overrides=overrides)
            jobs.append(runtime.make_job(call, options))
            number += 1
        made.append(jobs)
    parents = [(), *made[:-1]]
    handles = await runtime.admit_together(
        [(job, before) for jobs, before in zip(made, parents, strict=True) for job in jobs]
    )
    remaining = iter(handles)
    return WorkflowHandle(workflow_id, runtime, [[next(remaining) for _ in jobs] for jobs in made])


async def find_chain(runtime: Runtime, workflow_id: str) -> WorkflowHandle:
    """See `Runtime.workflow`."""
    steps: dict[str, list[JobHandle[Any]]] = {}
    for number in range(JOBS_MAX):
        try:
            handle = await runtime.find(f"{workflow_id}.{number}")
        except UnknownJob:
            break
        options = handle.job.options
        label = "" if options is None else options.label or ""
        steps.setdefault(label.rpartition(" ")[2], []).append(handle)
    if not steps:
        raise UnknownJob(f"no workflow {workflow_id[:128]!r} is kept")
    return WorkflowHandle(workflow_id, runtime, list(steps.values()))
