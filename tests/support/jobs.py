"""Jobs made by hand, for tests of the parts that hold them."""

from __future__ import annotations

import itertools

from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority
from worker_runtime.model.tasks.definition import TaskDefinition, define
from worker_runtime.model.tasks.options import JobOptions

_orders = itertools.count(1)


async def nothing() -> None:
    pass


NOTHING: TaskDefinition = define(nothing)


def make_job(
    job_id: str | None = None,
    *,
    priority: Priority = Priority.NORMAL,
    created_at: float = 0.0,
    due_at: float = 0.0,
    options: JobOptions | None = None,
) -> Job:
    """A job that is nowhere yet. Its `order` is higher than that of every job made before."""
    order = next(_orders)
    return Job(
        job_id or f"job-{order}",
        NOTHING,
        (),
        None,
        "default",
        int(priority),
        order,
        created_at,
        due_at=due_at,
        options=options,
    )
