"""The sandbox dialect's routes: `/task`, `/status` and `/config`.

Two facts of the load balancer shape everything: it takes a worker out after three 5xx in a row, so
that input errors are 4xx and a burst is queued instead of refused; and it gives a task up after 30
seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import Metric

import worker_runtime
from worker_runtime.acceptance.options import WIRE
from worker_runtime.errors import InvalidArguments, WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.model.job_id import JobIds
from worker_runtime.model.snapshot import QueueInfo
from worker_runtime.model.states import CANCELLED, COMPLETED, Reason
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web.sandbox.metrics import SandboxMetrics
from worker_runtime.web.sandbox.simulated_task import TASK_NAME, simulation_of
from worker_runtime.web.wire.bodies.answers import (
    OPEN_JSON_HEADERS,
    encode_json,
    json_response,
    open_json,
)
from worker_runtime.web.wire.bodies.reading import Body
from worker_runtime.web.wire.cross_origin import ANY_ORIGIN, preflight_headers
from worker_runtime.web.wire.dialect import DialectDefaults
from worker_runtime.web.wire.rejection import Rejection, rejection_of
from worker_runtime.web.wire.uptime import uptime_s
from worker_runtime.web.wire.waits import JobWaits

logger = logging.getLogger("worker_runtime.web")

TASK_TIMEOUT_S = 30.0
_CONFIG_BYTES_MAX = 64 * 1024

_CORS = preflight_headers(
    ANY_ORIGIN, methods="GET, POST, PUT, OPTIONS", headers="Content-Type, Authorization"
)

# The contract words these two itself; every other refusal speaks for itself.
_ERRORS = {
    "queue_full": "Queue full - service overloaded",
    "malformed_body": "Invalid request body",
    "invalid_body": "Invalid request body",
    "invalid_config": "Invalid config body",
}
_LABELS = {"queue_full": "rejected", "shutting_down": "rejected", "overloaded": "overloaded"}


class TaskRequest(msgspec.Struct):
    """`id` is a label to echo: any text, also twice. The load balancer sends neither field when
    its own client sent no usable body."""

    id: str | None = None
    weight: int | float | None = None


class TaskAnswer(msgspec.Struct, omit_defaults=True):
    """`result` is this project's own: what the task returned, left out when that is None."""

    id: str
    worker: str
    color: str
    processing_time_ms: int
    duration_ms: int = msgspec.field(name="processingTimeMs")
    timestamp: datetime
    result: Any = None


class Config(msgspec.Struct):
    """`/config`, in the order in which the sandbox's workers write it."""

    max_concurrent_requests: int
    response_delay_ms: int
    failure_rate: float
    queue_size: int


class Sandbox(DialectDefaults):
    """Runs the registered task called `task` for each `POST /task` and answers when it is done."""

    name = "sandbox"

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._worker = settings.name
        self._color = settings.color
        self._clock = runtime.doorway.clock
        self._ids = JobIds()
        self._body: Body[TaskRequest] = Body(TaskRequest, bytes_max=settings.payload_bytes_max)
        self._config_body: Body[dict[str, Any]] = Body(
            dict[str, Any], bytes_max=min(_CONFIG_BYTES_MAX, settings.payload_bytes_max)
        )
        self._task = next((t for t in runtime.tasks if t.name == TASK_NAME), None)
        self._queue = self._task.queue if self._task is not None else "default"
        self._simulated = simulation_of(self._task, settings, self._clock)
        self._misfit = None if self._task is None else _misfit(self._task)
        self._by_position = self._task is not None and self._task.signature.positional == [
            "id",
            "weight",
        ]
        self._timeout_s = TASK_TIMEOUT_S
        self._waits = JobWaits(runtime)
        self._metrics = SandboxMetrics(settings.name)

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/task", self._run),
            web.get("/status", self._status),
            web.get("/config", self._show_config),
            web.put("/config", self._change_config),
            web.post("/config", self._change_config),
            *(
                web.options(path, self._preflight)
                for path in ("/task", "/status", "/config", "/health", "/metrics")
            ),
        ]

    def health(self) -> Mapping[str, Any]:
        queue = self._queue_info()
        return {
            "healthy": self._runtime.is_accepting,
            "status": "ok",
            "uptime": uptime_s(self._runtime),
            "version": worker_runtime.__version__,
            "currentLoad": queue.running,
            "queueDepth": queue.waiting,
            "load": _load_word(queue),
        }

    def collect(self) -> Iterable[Metric]:
        queue = self._queue_info()
        return self._metrics.collect(running=queue.running, waiting=queue.waiting)

    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
        """`detail` for people besides the flat pair that the sandbox's workers send."""
        document = {
            "error": _ERRORS.get(rejection.code, rejection.detail),
            "worker": self._worker,
            "detail": rejection.detail,
            **rejection.fields,
        }
        headers = {**_CORS, **(rejection.headers or {})}
        return json_response(document, rejection.status, headers)

    async def open(self) -> None:
        if self._misfit is not None:
            logger.warning("POST /task will refuse everything: %s", self._misfit)

    # POST /task

    async def _run(self, request: web.Request) -> web.Response:
        try:
            call = await self._body.read_as_json(request)
            if self._misfit is not None:
                raise Rejection(422, "invalid_arguments", self._misfit)
            label = self._ids.make(self._clock.wall()) if call.id is None else call.id
            weight = 1.0 if call.weight is None else call.weight
            if self._by_position:  # the same call, and cheaper to check
                handle = await self._runtime.doorway.enqueue_with(WIRE, TASK_NAME, (label, weight))
            else:
                named = {"id": label, "weight": weight}
                handle = await self._runtime.doorway.enqueue_with(WIRE, TASK_NAME, (), named)
        except (Rejection, WorkerRuntimeError) as error:
            rejection = rejection_of(error)
            self._metrics.count(_LABELS.get(rejection.code, "error"))
            raise rejection from None
        job = handle.job
        if not await self._waits.ended_within(job, self._timeout_s):
            self._metrics.count("failed")
            await self._runtime.cancel(job.id, "its caller waits no longer")
            detail = f"the task did not finish within {self._timeout_s:g} s and was cancelled"
            raise Rejection(504, "task_timeout", detail)
        return self._answer(label, job)

    def _answer(self, label: str, job: Job) -> web.Response:
        duration_ms = 0.0
        if job.started_at is not None and job.ended_at is not None:
            duration_ms = (job.ended_at - job.started_at) * 1000
            self._metrics.observe(duration_ms)
        if job.state is not COMPLETED:
            self._metrics.count("failed")
            raise _failed(job)
        whole_ms = int(duration_ms)
        now = self._clock.now_utc()
        document = TaskAnswer(label, self._worker, self._color, whole_ms, whole_ms, now, job.result)
        try:
            body = encode_json(document)
        except Exception as error:  # what MessagePack could spell: a key that is no text
            self._metrics.count("failed")
            detail = f"the result cannot be encoded as JSON: {str(error)[:300]}"
            raise Rejection(500, "unencodable", detail) from None
        self._metrics.count("success")
        return OPEN_JSON_HEADERS.respond(body)

    # /status and /config

    async def _status(self, request: web.Request) -> web.Response:
        queue = self._queue_info()
        return open_json(
            {
                "name": self._worker,
                "color": self._color,
                "current_load": queue.running,
                "max_load": queue.concurrency,
                "queue_depth": queue.waiting,
                "healthy": self._runtime.is_accepting,
                "weight": 1.0,
            }
        )

    async def _show_config(self, request: web.Request) -> web.Response:
        queue = self._queue_info()
        return open_json(
            Config(
                queue.concurrency,
                self._simulated.response_delay_ms,
                self._simulated.failure_rate,
                queue.capacity,
            )
        )

    async def _change_config(self, request: web.Request) -> web.Response:
        """Merge what is valid and answer what holds now; the sandbox's UI sends single fields."""
        try:
            given = await self._config_body.read_as_json(request)
        except Rejection as error:
            if error.status == 415:  # it was not read
                raise
            raise Rejection(error.status, "invalid_config", error.detail, error.headers) from None
        changes = {field: _valid(field, value) for field, value in given.items()}
        self._runtime.resize(
            self._queue,
            concurrency=changes.get("max_concurrent_requests"),
            capacity=changes.get("queue_size"),
        )
        for field in ("response_delay_ms", "failure_rate"):
            if changes.get(field) is not None:
                setattr(self._simulated, field, changes[field])
        logger.info("sandbox config updated: %s", given.keys() & _CONFIG_LIMITS.keys())
        return await self._show_config(request)

    async def _preflight(self, request: web.Request) -> web.Response:
        return web.Response(headers=_CORS)

    def _queue_info(self) -> QueueInfo:
        return self._runtime.queue_info(self._queue)


def _load_word(queue: QueueInfo) -> str:
    """The word of the sandbox's workers for how full this one is."""
    ratio = max(queue.running / queue.concurrency, queue.waiting / queue.capacity)
    return "unhealthy" if ratio >= 0.9 else "degraded" if ratio >= 0.7 else "healthy"


def _misfit(task: TaskDefinition) -> str | None:
    """Why the task cannot take what the sandbox sends; None where it can."""
    try:
        task.signature.bind((), {"id": "task-1", "weight": 1.0}, wire=True)
    except InvalidArguments as error:
        return f"the registered task `{task.name}` must take `id` and `weight`: {error}"
    return None


def _failed(job: Job) -> Rejection:
    """What to answer for a job that ended without a result; `error` is the task's own text."""
    failure = job.failure
    text = "the task failed" if failure is None else failure.words
    if job.state is CANCELLED:
        return Rejection(503, "task_cancelled", text)
    if failure is not None and failure.reason is Reason.TIMEOUT:
        return Rejection(504, "task_timeout", text)
    return Rejection(500, "task_failed", text)


_CONFIG_LIMITS: dict[str, tuple[type, float, float]] = {
    "max_concurrent_requests": (int, 1, 100_000),
    "response_delay_ms": (int, 0, 3_600_000),
    "failure_rate": (float, 0, 1),
    "queue_size": (int, 1, 100_000_000),
}


def _valid(field: str, value: Any) -> Any:
    """`value` as the field's type; None where it is none of ours or out of range."""
    kind, low, high = _CONFIG_LIMITS.get(field, (int, 1, 0))
    if type(value) not in (int, float) or not low <= value <= high or kind(value) != value:
        return None
    return kind(value)
