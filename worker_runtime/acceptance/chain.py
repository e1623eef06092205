"""Chains and groups: several jobs, accepted together, that wait for each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from worker_runtime.acceptance.call import Call, calls_in
from worker_runtime.acceptance.handle import JobControl, JobHandle, WorkflowHandle
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.errors import InvalidJob, UnknownJob
from worker_runtime.model.job import Job
from worker_runtime.model.job_id import check_job_id
from worker_runtime.model.tasks.options import JobOptions

JOBS_MAX = 10_000

_LABEL = re.compile(r": step (?P<step>\d+), job \d+ of (?P<count>\d+)(?P<group>, in a group)?$")


class ChainControl(JobControl, Protocol):
    """What a chain asks of the runtime that accepts it; see `Runtime` for the meanings."""

    def new_job_id(self) -> str: ...

    def make_job(self, call: Call[Any], options: EnqueueOptions) -> Job: ...

    async def accept_together(
        self, jobs: Sequence[tuple[Job, Sequence[Job]]], *, is_named: bool
    ) -> list[JobHandle[Any]]: ...

    async def find(self, job_id: str) -> JobHandle[Any]: ...


async def enqueue_chain(
    runtime: ChainControl, steps: Sequence[Call[Any] | Sequence[Call[Any]]], workflow_id: str | None
) -> WorkflowHandle:
    """See `Runtime.chain`."""
    groups = [[step] if isinstance(step, Call) else calls_in(step) for step in steps]
    is_group = [not isinstance(step, Call) for step in steps]
    if not groups or not all(groups):
        raise InvalidJob("a chain needs at least one step, and each step at least one call(...)")
    count = sum(map(len, groups))
    if count > JOBS_MAX:
        raise InvalidJob(f"a workflow has at most {JOBS_MAX} jobs, not {count}")
    is_named = workflow_id is not None
    workflow_id = runtime.new_job_id() if workflow_id is None else check_job_id(workflow_id)
    made: list[list[Job]] = []
    number = 0
    for index, calls in enumerate(groups):
        before = made[-1] if made else []
        takes: Literal["one", "all"] = "all" if index and is_group[index - 1] else "one"
        group = ", in a group" if is_group[index] else ""
        jobs = []
        for call in calls:
            overrides = JobOptions(
                label=f"{workflow_id}: step {index + 1}, job {number + 1} of {count}{group}",
                after=tuple(job.id for job in before),
                takes_results=takes if before else None,
            )
            options = EnqueueOptions(job_id=f"{workflow_id}.{number}", overrides=overrides)
            jobs.append(runtime.make_job(call, options))
            number += 1
        made.append(jobs)
    parents = [(), *made[:-1]]
    handles = await runtime.accept_together(
        [(job, before) for jobs, before in zip(made, parents, strict=True) for job in jobs],
        is_named=is_named,
    )
    remaining = iter(handles)
    found = [[next(remaining) for _ in jobs] for jobs in made]
    return WorkflowHandle(workflow_id, runtime, found, ends_in_group=is_group[-1])


async def find_chain(runtime: ChainControl, workflow_id: str) -> WorkflowHandle:
    """See `Runtime.workflow`."""
    steps: dict[str, list[JobHandle[Any]]] = {}
    number, count, is_group = 0, 1, False
    while number < count:
        try:
            handle = await runtime.find(f"{workflow_id}.{number}")
        except UnknownJob:
            raise UnknownJob(
                f"workflow {workflow_id[:128]!r} is not kept"
                + (f" whole: its job {number + 1} of {count} is gone" if number else "")
            ) from None
        options = handle.job.options
        place = None if options is None else _LABEL.search(options.label or "")
        if place is None:
            raise UnknownJob(f"no workflow {workflow_id[:128]!r} is kept")
        count, is_group = int(place["count"]), place["group"] is not None
        steps.setdefault(place["step"], []).append(handle)
        number += 1
    return WorkflowHandle(workflow_id, runtime, list(steps.values()), ends_in_group=is_group)
