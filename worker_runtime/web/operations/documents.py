"""What an operation looks like: a job of a domain task, in the backend's words.

The backend reads these documents strictly: `status` and `progress` out of their ranges make it drop
the whole answer, an empty `result_summary` makes it ask for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from worker_runtime.contracts.domains import is_agent, type_of
from worker_runtime.contracts.registration import CompletedOperation, End
from worker_runtime.model.activity import Counts, Metric, Progress
from worker_runtime.model.job import Job
from worker_runtime.model.states import COMPLETED, RUNNING, StopReason
from worker_runtime.runtime import Runtime
from worker_runtime.web.operations.request_shape import RequestShape

STATUSES = ("pending", "resuming", "running", "completed", "failed", "cancelled")
ACTIVE_STATUSES = ("pending", "running")
CANCELLED_BY_USER = "Operation cancelled by user"
_HISTORY_SHOWN_MAX = 1000

# The backend's own enumeration.
KNOWN_TYPES = frozenset(
    {
        "agent_assessment",
        "agent_design",
        "agent_research",
        "backtesting",
        "data_load",
        "dummy",
        "fuzzy_analysis",
        "indicator_compute",
        "training",
    }
)
_HISTORY_NAMES = {"training": "epochs", "backtesting": "bars", "data_load": "segments"}
_TEXTS = ("symbol", "timeframe", "mode")
_DATES = ("start_date", "end_date")


class Cancellation(msgspec.Struct, frozen=True):
    """An operation was told to stop at `at` (Unix seconds)."""

    at: float
    reason: str


class OperationView:
    """Describes operations. It remembers who was cancelled when, because an operation counts as
    cancelled from then on, while its work may still run until it next looks."""

    def __init__(
        self, runtime: Runtime, worker_id: str, shapes: Mapping[str, RequestShape]
    ) -> None:
        self._runtime = runtime
        self._wall = runtime.doorway.clock.wall
        self._shapes = shapes
        self._worker_id = worker_id
        self._cancellations: dict[str, Cancellation] = {}

    def cancelled(self, job: Job, reason: str) -> Cancellation:
        """Remember a cancel until the job has ended."""
        for job_id in [i for i in self._cancellations if not self._is_running(i)]:
            del self._cancellations[job_id]
        made = Cancellation(self._wall(), reason)
        self._cancellations[job.id] = made
        return made

    def status(self, job: Job) -> str:
        if job.state is RUNNING:
            return "running" if self._cancellation(job) is None else "cancelled"
        if job.is_ended:
            return str(job.state)
        return "pending"

    def describe(self, job: Job) -> dict[str, Any]:
        """All fields of one operation."""
        status = self.status(job)
        domain_type = type_of(job.task.domain or job.task.name)
        error = self._error(job, status)
        parameters = self._shapes[job.task.name].parameters(job)
        metadata = {name: _text(parameters.get(name)) for name in _TEXTS}
        metadata |= {name: _date(parameters.get(name)) for name in _DATES}
        parent_id = None
        if is_agent(job.task.domain):
            parent_id = None if job.options is None else job.options.label
            parameters = {**parameters, "parent_task_id": parent_id}
        return {
            **self.summary(job),
            "parent_operation_id": parent_id,
            "metadata": {**metadata, "parameters": parameters, "worker_id": self._worker_id},
            "error_message": error,
            "warnings": [],
            "errors": [error] if error is not None and status == "failed" else [],
            "result_summary": result_of(job) if job.state is COMPLETED else None,
            "metrics": _history(job, domain_type),
            "is_backend_local": False,
        }

    def summary(self, job: Job) -> dict[str, Any]:
        """What a list shows of an operation."""
        status = self.status(job)
        progress = _progress(job, status)
        ended_at = self._ended_at(job)
        started_at = job.started_at
        until = self._wall() if ended_at is None else ended_at
        return {
            "operation_id": job.id,
            "operation_type": type_of(job.task.domain or job.task.name),
            "status": status,
            "created_at": iso(job.created_at),
            "started_at": iso(started_at),
            "completed_at": iso(ended_at),
            "updated_at": iso(self._updated_at(job)),
            "progress": progress,
            "progress_percentage": progress["percentage"],
            "current_step": progress["current_step"],
            "symbol": _text(self._shapes[job.task.name].parameters(job).get("symbol")),
            "duration_seconds": None if started_at is None else max(0.0, until - started_at),
        }

    def completion(self, job: Job) -> CompletedOperation:
        """The operation as a registration reports it. Assumes that it has ended."""
        status = self.status(job)
        return CompletedOperation(
            operation_id=job.id,
            status=cast(End, status.upper()),
            result=result_of(job) if job.state is COMPLETED else None,
            error_message=self._error(job, status),
            completed_at=datetime.fromtimestamp(self._ended_at(job) or self._wall(), UTC),
        )

    def _cancellation(self, job: Job) -> Cancellation | None:
        order = self._runtime.doorway.stop_order(job)
        if order is None or order.reason is not StopReason.CANCEL:
            return None
        known = self._cancellations.get(job.id)
        if known is None:  # through another door
            known = Cancellation(self._wall(), order.message or CANCELLED_BY_USER)
            self._cancellations[job.id] = known
        return known

    def _is_running(self, job_id: str) -> bool:
        job = self._runtime.doorway.job_here(job_id)
        return job is not None and job.state is RUNNING

    def _ended_at(self, job: Job) -> float | None:
        if job.state is RUNNING:
            cancellation = self._cancellation(job)
            return None if cancellation is None else cancellation.at
        return job.ended_at

    def _updated_at(self, job: Job) -> float:
        progress = job.activity.progress if job.activity is not None else None
        reported_at = None if progress is None else progress.at
        times = (job.created_at, job.started_at, self._ended_at(job), reported_at)
        return max(at for at in times if at is not None)

    def _error(self, job: Job, status: str) -> str | None:
        if job.state is RUNNING:
            cancellation = self._cancellation(job)
            return None if cancellation is None else cancellation.reason
        if job.failure is None or status not in ("failed", "cancelled"):
            return None
        return job.failure.words


def metric_document(metric: Metric) -> dict[str, Any]:
    return {"timestamp": iso(metric.at), "name": metric.name, "value": metric.value}


def result_of(job: Job) -> dict[str, Any]:
    """The result as an object that is never empty."""
    try:
        plain = msgspec.to_builtins(job.result, str_keys=True)
    except Exception as error:  # only for a result that no wire was promised
        return {"result": None, "note": f"cannot be encoded: {type(error).__name__}"}
    if isinstance(plain, dict) and plain:
        return plain
    return {"result": plain}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _date(value: Any) -> str | None:
    """A date or time as the request has it; None where the backend could not read it."""
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return str(value)


def iso(at: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC, with `Z`."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _progress(job: Job, status: str) -> dict[str, Any]:
    reported = job.activity.progress if job.activity is not None else None
    known = reported or Progress(0.0, None, None, 0.0)
    counts = known.counts or _counts_of(known)
    return {
        "percentage": 100.0 if status == "completed" else known.percentage,
        "current_step": known.step,
        "steps_completed": counts.steps_done or 0,
        "steps_total": counts.steps_total or 0,
        "items_processed": counts.items_done or 0,
        "items_total": counts.items_total,
        "current_item": counts.item,
        "context": {},
        "estimated_remaining_seconds": (
            known.remaining_s(job.started_at) if status == "running" else None
        ),
    }


def _counts_of(known: Progress) -> Counts:
    """What was reported, as steps and as items."""
    total = None if known.total is None else max(0, int(known.total))
    done = max(0, int(known.done))
    return Counts(done, total, done, total)


def _history(job: Job, operation_type: str) -> Mapping[str, Any] | None:
    metrics = job.activity.metrics if job.activity is not None else []
    if not metrics:
        return None
    name = _HISTORY_NAMES.get(operation_type, "history")
    return {name: [metric_document(metric) for metric in metrics[-_HISTORY_SHOWN_MAX:]]}
