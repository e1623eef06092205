"""The vera dialect's routes.

Three doors onto the same tasks: submitting and polling (the worker guide's own API), the blocking
`/execute` of the orchestrator's remote workers, and the `/submit` of its cluster pool. Which
function a request runs is decided by the names that are registered here, never by what it sends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from prometheus_client import Metric

from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.errors import InvalidArguments, InvalidJob, InvalidTransition, UnknownJob
from worker_runtime.model.job import Job
from worker_runtime.model.snapshot import utc
from worker_runtime.model.states import (
    COMPLETED,
    FAILED,
    RETRYABLE_STATES,
    RUNNING,
    Priority,
    State,
)
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.runtime import Runtime
from worker_runtime.services.resources import gpu
from worker_runtime.settings import Settings
from worker_runtime.web.vera.log_lines import TaskLog
from worker_runtime.web.vera.metrics import VeraMetrics
from worker_runtime.web.vera.submission import FieldErrors, Submission, field_error, read_submission
from worker_runtime.web.wire.bodies.answers import json_of, json_response, plain_json
from worker_runtime.web.wire.bodies.media import is_msgpack
from worker_runtime.web.wire.bodies.reading import Body, read_body
from worker_runtime.web.wire.dialect import DialectDefaults
from worker_runtime.web.wire.rejection import Rejection
from worker_runtime.web.wire.uptime import uptime_s
from worker_runtime.web.wire.waits import JobWaits

EXECUTE_TIMEOUT_S = 300.0
_EXECUTE_TIMEOUT_MAX_S = 86_400.0

_PRIORITIES = {priority.name.lower(): priority for priority in Priority}

# What the orchestrator calls a worker that can run a task of this type.
_CAPABILITY_OF_TYPE = {
    "api_request": ("api_requests",),
    "background_cognition": ("background_cognition",),
    "bash": ("bash",),
    "code_execution": ("code_execution", "python"),
    "docker_task": ("docker",),
    "llm_request": ("llm_inference",),
    "ollama_request": ("ollama", "llm_inference"),
    "tool_call": ("tool_execution",),
}


class ExecuteRequest(msgspec.Struct):
    """`POST /execute` of a remote worker; `timeout` in seconds, also the longest answer time."""

    type: str
    id: str | None = None
    payload: dict[str, Any] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0, le=_EXECUTE_TIMEOUT_MAX_S)] | None = None


class PoolRequest(msgspec.Struct):
    """`POST /submit` of the cluster pool."""

    name: str
    payload: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    priority: Priority = Priority.NORMAL
    labels: list[str] | None = None


class SubmitAnswer(msgspec.Struct, gc=False):
    status: str
    task_id: str
    position: int


class TaskRecord(msgspec.Struct):
    """`GET /task/{id}`. Times are UTC."""

    task_id: str
    payload: dict[str, Any] | msgspec.Raw
    status: str
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    result: Any
    error: str | None


class Vera(DialectDefaults):
    """Serves `/task/*`, `/execute`, `/capabilities`, `/submit` and `/heartbeat`."""

    name = "vera"
    # The cluster pool asks for the heartbeat without the token that it submits with.
    open_paths = frozenset({"/heartbeat"})

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._clock = runtime.doorway.clock
        self._resources = runtime.doorway.resources
        bytes_max = settings.payload_bytes_max
        self._submission: Body[Submission] = Body(Submission, bytes_max=bytes_max)
        self._any: Body[Any] = Body(Any, bytes_max=bytes_max)
        self._execution: Body[ExecuteRequest] = Body(ExecuteRequest, bytes_max=bytes_max)
        self._pool_request: Body[PoolRequest] = Body(PoolRequest, bytes_max=bytes_max)
        self._waits = JobWaits(runtime)
        self._metrics = VeraMetrics(runtime)
        self._log = TaskLog(runtime) if settings.dialects[:1] == (self.name,) else None

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/task/submit", self._submit),
            web.get("/task/{task_id}", self._show),
            web.get("/capabilities", self._capabilities),
            web.post("/execute", self._execute),
            web.post("/submit", self._submit_to_pool),
            web.get("/heartbeat", self._heartbeat),
        ]

    def health(self) -> Mapping[str, Any]:
        sample = self._resources.latest
        return {
            "status": "healthy" if self._runtime.is_accepting else "stopping",
            "active_tasks": self._metrics.active,
            "queue_size": self._metrics.waiting,
            "cpu_percent": sample.cpu_percent,
            "memory_percent": sample.memory_percent,
            "cpu_usage": sample.cpu_percent,
            "memory_usage_mb": round(sample.process_memory_bytes / (1 << 20), 1),
            "timestamp": self._clock.now_utc(),
        }

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect()

    def metrics_document(self) -> Mapping[str, Any] | None:
        sample = self._resources.latest
        metrics = self._metrics
        return {
            "tasks_completed": metrics.completed,
            "tasks_failed": metrics.failed,
            "tasks_queued": metrics.waiting,
            "average_execution_time": metrics.average_s,
            "uptime_seconds": uptime_s(self._runtime),
            "cpu_cores": sample.cpu_cores,
            "memory_total_gb": round(sample.memory_total_bytes / (1 << 30), 2),
        }

    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
        """FastAPI's shape: `detail` is a sentence, or for an invalid submission a list."""
        detail: Any = rejection.detail
        if isinstance(rejection, FieldErrors):
            detail = rejection.errors
        document = {"detail": detail, **rejection.fields}
        return json_response(document, rejection.status, rejection.headers)

    async def open(self) -> None:
        self._resources.start()
        if self._log is not None:
            self._log.open()

    async def close(self) -> None:
        if self._log is not None:
            await self._log.close()

    # Submit and poll

    async def _submit(self, request: web.Request) -> web.Response:
        packed = is_msgpack(request)
        data = await read_body(request, self._settings.payload_bytes_max)
        sent: Any = None
        try:
            given = self._submission.decode(data, packed=packed)
        except Rejection as error:
            if error.code == "malformed_body":
                raise _no_json(data, error) from None
            if error.code != "invalid_body":
                raise
            raw = self._any.decode(data, packed=packed)
            given, sent = read_submission(raw), raw["payload"]
        job, is_new = await self._enqueue_submission(given, sent)
        status = "queued" if is_new else _status(job.state)
        position = 0
        if status == "queued":  # a job that a free slot took at once was in the line all the same
            position = self._runtime.doorway.waiting_count(job.queue) or 1
        return plain_json(SubmitAnswer(status, job.id, position))

    async def _enqueue_submission(self, given: Submission, sent: Any) -> tuple[Job, bool]:
        """`sent` is the payload where it says more than `given.payload`."""
        payload = given.payload
        args, kwargs = payload.args or (), payload.kwargs or {}
        if sent is None:
            definition = self._runtime.doorway.definition(payload.function)
            is_whole = payload.args is not msgspec.UNSET and payload.kwargs is not msgspec.UNSET
            sent = None if is_whole and definition.signature.keeps_json else payload
        options = EnqueueOptions(
            job_id=given.task_id or _uuid4(),
            priority=_PRIORITIES.get(given.priority, Priority.NORMAL),
            overrides=None if sent is None else JobOptions(sent=_as_text(sent)),
            must_encode=True,
            wire=True,
        )
        try:
            handle = await self._runtime.doorway.enqueue_with(
                options, payload.function, tuple(args), kwargs
            )
        except InvalidArguments as error:
            place = "kwargs" if kwargs else "args"
            problem = field_error("value_error", ("body", "payload", place), str(error))
            raise FieldErrors([problem]) from None
        except InvalidJob as error:
            problem = field_error("value_error", ("body", "task_id"), str(error))
            raise FieldErrors([problem]) from None
        return handle.job, handle.is_new

    async def _show(self, request: web.Request) -> web.Response:
        try:
            job = await self._runtime.job(request.match_info["task_id"])
        except UnknownJob:
            raise Rejection(404, "unknown_job", "Task not found") from None
        record = _record(job)
        try:
            return plain_json(record)
        except Exception:
            return plain_json(_in_json(record, job))

    # The orchestrator's remote worker

    async def _capabilities(self, request: web.Request) -> web.Response:
        names = {task.name for task in self._runtime.tasks}
        known = {word for name in names for word in _CAPABILITY_OF_TYPE.get(name, ())}
        if gpu() is not None:
            known.add("gpu")
        return plain_json(
            {
                "capabilities": sorted(known | names | {"remote_compute"}),
                "max_concurrent_tasks": sum(q.concurrency for q in self._runtime.queue_infos()),
                "worker_id": self._settings.name,
            }
        )

    async def _execute(self, request: web.Request) -> web.Response:
        """Run the task called `type` with the payload as keyword arguments; the answer is the
        result. 200 says that the job ended, `success` how. The id of a task that failed, sent
        again, is another try."""
        call = await self._execution.read(request)
        timeout_s = call.timeout or EXECUTE_TIMEOUT_S
        overrides = JobOptions(timeout_s=timeout_s, expires_at=self._clock.wall() + timeout_s)
        options = EnqueueOptions(job_id=call.id, overrides=overrides, must_encode=True, wire=True)
        handle = await self._runtime.doorway.enqueue_with(options, call.type, (), call.payload)
        job = handle.job
        if not handle.is_new and job.state in RETRYABLE_STATES:
            job = await self._run_again(job, overrides)
        error = None
        if not await self._waits.ended_within(job, timeout_s):
            error = f"did not end within {timeout_s:g} s"
            await self._runtime.cancel(job.id, error)
        document = self._execution_answer(job, error)
        try:
            return plain_json(document)
        except Exception as problem:  # what only MessagePack can spell: a key that is no text
            return plain_json(
                {**document, "success": False, "data": None, "error": _unencodable(problem)}
            )

    async def _run_again(self, job: Job, overrides: JobOptions) -> Job:
        job.options = (
            overrides
            if job.options is None
            else msgspec.structs.replace(job.options, timeout_s=overrides.timeout_s)
        )
        try:
            return (await self._runtime.retry(job.id)).job
        except InvalidTransition:  # another request for the same was faster
            return await self._runtime.job(job.id)

    def _execution_answer(self, job: Job, late: str | None) -> dict[str, Any]:
        """`late` are the words for a job that was given up, unless it ended all the same."""
        error = None if job.state is COMPLETED else late or _error_text(job)
        started_at, ended_at = job.started_at, job.ended_at
        ran_s = (ended_at or self._clock.wall()) - started_at if started_at is not None else 0.0
        return {
            "success": job.state is COMPLETED,
            "data": job.result,
            "error": error,
            "metrics": {
                "execution_time": max(0.0, ran_s),
                "queue_time": max(0.0, (started_at or self._clock.wall()) - job.created_at),
                "attempts": job.attempt,
                "worker_id": self._settings.name,
            },
        }

    # The orchestrator's cluster pool

    async def _submit_to_pool(self, request: web.Request) -> web.Response:
        """Queue the task called `name`; nobody asks for the result. A task that has a `context`
        parameter gets the caller's."""
        try:
            call = await self._pool_request.read(request)
        except Rejection as error:  # this door knows one answer to a body it cannot use
            if error.code != "invalid_body":
                raise
            raise Rejection(400, error.code, error.detail, error.headers) from None
        definition = self._runtime.doorway.definition(call.name)
        arguments = call.payload or {}
        if "context" in definition.signature.types:
            arguments.setdefault("context", call.context or {})
        options = EnqueueOptions(priority=call.priority, must_encode=True, wire=True)
        handle = await self._runtime.doorway.enqueue_with(options, call.name, (), arguments)
        return plain_json({"enqueued": True, "task_id": handle.id})

    async def _heartbeat(self, request: web.Request) -> web.Response:
        return plain_json({"status": "ok"})


def _no_json(data: bytes, error: Rejection) -> FieldErrors:
    if not data:
        return FieldErrors([field_error("missing", ("body",), "Field required")])
    return FieldErrors([field_error("json_invalid", ("body",), error.detail)])


def _as_text(payload: Any) -> str:
    """As JSON. Raises FieldErrors for what only MessagePack can say."""
    try:
        return json_of(payload).decode()
    except (TypeError, ValueError) as error:
        problem = field_error("value_error", ("body", "payload"), str(error))
        raise FieldErrors([problem]) from None


def _uuid4() -> str:
    """A random UUID as text; `uuid.uuid4` makes an object on the way, at twice the cost."""
    text = os.urandom(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def _status(state: State) -> str:
    if state is RUNNING or state is COMPLETED or state is FAILED:
        return str(state)
    return "failed" if state is State.CANCELLED else "queued"


def _error_text(job: Job) -> str | None:
    return None if job.failure is None else job.failure.words


def _record(job: Job) -> TaskRecord:
    queued_at = utc(job.created_at)
    payload: dict[str, Any] | msgspec.Raw
    if job.options is not None and job.options.sent is not None:
        payload = msgspec.Raw(job.options.sent)
    else:
        payload = {"function": job.task.name, "args": list(job.args), "kwargs": job.kwargs or {}}
    return TaskRecord(
        task_id=job.id,
        payload=payload,
        status=_status(job.state),
        queued_at=queued_at,
        started_at=utc(job.started_at),
        completed_at=utc(job.ended_at),
        result=job.result if job.state is COMPLETED else None,
        error=_error_text(job),
    )


def _in_json(record: TaskRecord, job: Job) -> TaskRecord:
    """The record of a job that is not JSON as it is: MessagePack and Python spell what JSON cannot,
    such as a key that is no text. What it is about stays; what is left out, `error` says."""
    changes: dict[str, Any] = {}
    for field, instead in (
        ("result", None),
        ("payload", {"function": job.task.name, "args": [], "kwargs": {}}),
    ):
        try:
            json_of(getattr(record, field))
        except Exception as problem:
            changes |= {field: instead, "error": record.error or _unencodable(problem, field)}
    return msgspec.structs.replace(record, **changes)


def _unencodable(problem: Exception, what: str = "result") -> str:
    return f"the {what} cannot be encoded as JSON: {str(problem)[:300]}"
