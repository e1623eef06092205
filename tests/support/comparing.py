"""What two runs of the same calls can be compared by: everything but times and random ids."""

from __future__ import annotations

from typing import Any

import msgspec

from worker_runtime import Event, Missed, Runtime, Subscription, WorkerRuntimeError
from worker_runtime.model.activity import Failure
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.tally import Tally

Plain = dict[str, Any]


def assert_same(one: msgspec.Struct, other: msgspec.Struct) -> None:
    """That two runs were seen alike, field by field: the first that differs is shown."""
    for name in one.__struct_fields__:
        assert (name, getattr(one, name)) == (name, getattr(other, name))


def record_of(job: Job) -> Plain:
    """A job's record. Times are whether there is one, ids that were made up are left out, and of a
    traceback only the task's own frames count."""
    record = {name: getattr(job, name) for name in job.__struct_fields__}
    del record["waiters"], record["order"]
    record["task"] = job.task.name
    if not job.id.startswith("given-"):
        record["id"] = len(job.id)
    for name in ("created_at", "started_at", "ended_at", "due_at"):
        record[name] = bool(record[name])
    record["failure"] = _failure_of(job.failure)
    if job.activity is not None:
        record["activity"] = {
            "attempts": [
                (one.number, _failure_of(one.failure), one.started_at is not None)
                for one in job.activity.attempts
            ],
            "progress": job.activity.progress is not None,
            "metrics": [metric.name for metric in job.activity.metrics],
        }
    if job.options is not None and job.options.expires_at is not None:
        record["options"] = msgspec.structs.replace(job.options, expires_at=1.0)
    return record


def _failure_of(failure: Failure | None) -> Failure | None:
    if failure is None or failure.traceback is None:
        return failure
    lines = failure.traceback.split('  File "')
    own = [text for text in lines if "/worker_runtime/" not in text.partition('"')[0]]
    return msgspec.structs.replace(failure, traceback="".join(own))


def refusal_of(error: WorkerRuntimeError) -> Plain:
    """An error's kind, text and place in line; of a predicted wait whether there is one."""
    return {
        "kind": type(error),
        "text": str(error),
        "position": getattr(error, "position", None),
        "predicts": getattr(error, "predicted_wait_s", None) is not None,
        "retry_after": getattr(error, "retry_after_s", None) is not None,
    }


def tally_of(tally: Tally) -> Plain:
    """What a task's jobs came to; of the durations how many there were."""
    counted = {name: getattr(tally, name) for name in tally.__slots__}
    counted["durations"] = sum(tally.durations)
    counted["seconds"] = tally.seconds > 0
    counted["failed"] = dict(tally.failed)
    return counted


def ranks_of(jobs: list[Job]) -> list[int]:
    """The jobs' places in line, counted from 0."""
    orders = sorted({job.order for job in jobs})
    return [orders.index(job.order) for job in jobs]


def tallies_of(runtime: Runtime) -> dict[str, Plain]:
    return {task.name: tally_of(task.tally) for task in runtime.tasks}


async def events_of(subscription: Subscription, jobs: list[Job]) -> list[tuple[Any, ...]]:
    """All that a closed subscription has, with places in `jobs` for the ids."""
    places = {job.id: place for place, job in enumerate(jobs)}
    told: list[Event | Missed] = [event async for event in subscription]
    return [
        (places.get(e.job_id), e.task, e.queue, e.state, e.attempt, e.at > 0, e.reason)
        for e in told
        if isinstance(e, Event)
    ]
