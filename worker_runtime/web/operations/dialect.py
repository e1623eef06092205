"""The operations dialect's routes, and the worker's place in its backend's registry.

Every task marked with a domain is started at `POST /{domain}/start`. One operation at a time over
all domains: the backend's registry knows one per worker, and fails any other as an orphan.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from prometheus_client import Metric

from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.contracts.domains import (
    id_prefix,
    is_agent,
    service_of,
    type_of,
    typed_name,
)
from worker_runtime.contracts.registration import Registration
from worker_runtime.errors import ConfigurationError, UnknownJob
from worker_runtime.model.context import METRICS_KEPT_MAX
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web.operations.answers import (
    Handler,
    answering,
    busy,
    json_answer,
    preflight,
)
from worker_runtime.web.operations.capabilities import capabilities
from worker_runtime.web.operations.documents import (
    ACTIVE_STATUSES,
    CANCELLED_BY_USER,
    OperationView,
    iso,
    metric_document,
)
from worker_runtime.web.operations.listing import PAGE_LIMIT_MAX, OperationList
from worker_runtime.web.operations.live import LiveOperations
from worker_runtime.web.operations.metrics import OperationMetrics
from worker_runtime.web.operations.registrar import Registrar, RegistrarTimes
from worker_runtime.web.operations.request_shape import RequestShape
from worker_runtime.web.wire.bodies.reading import Body
from worker_runtime.web.wire.cross_origin import with_credentials
from worker_runtime.web.wire.dialect import DialectDefaults
from worker_runtime.web.wire.query import flag, whole
from worker_runtime.web.wire.rejection import Rejection

logger = logging.getLogger("worker_runtime.operations")

# The backend asks for ended operations as long as it has not seen their end.
RESULT_TTL_S = 86_400.0
REASON_CHARS_MAX = 500
PARENT_ID_CHARS_MAX = 128
METRICS_SHOWN = 100
# The version of the contract, which the backend's own workers answer too; ours is in `/metrics`.
SERVICE_VERSION = "1.0.0"


class Operations(DialectDefaults):
    """The operations of one runtime, and its place in a backend's registry."""

    name = "operations"

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._clock = runtime.doorway.clock
        self._domains = _domains(runtime.tasks)
        self._body: Body[dict[str, Any]] = Body(
            dict[str, Any], bytes_max=settings.payload_bytes_max
        )
        first = next(iter(self._domains), None)
        derived = "worker" if first is None else type_of(first)
        self.worker_type = settings.worker_type or derived
        self._worker_id = typed_name(settings.name, self.worker_type)
        self._shapes = {task.name: RequestShape(task) for task in self._domains.values()}
        self._view = OperationView(runtime, self._worker_id, self._shapes)
        self._metrics = OperationMetrics(list(self._domains.values()))
        self._listed = OperationList(runtime, self._domains, self._view)
        self._live = LiveOperations(runtime, self._domains, self._ended)
        self._registrar: Registrar | None = None
        if settings.backend_url is not None:
            every_s = settings.backend_check_interval_s
            times = RegistrarTimes(check_every_s=every_s, silence_max_s=3 * every_s)
            self._registrar = Registrar(
                settings.backend_url, self._clock, current=self._live.current, times=times
            )

    def routes(self) -> Sequence[web.RouteDef]:
        handlers: list[tuple[str, str, Handler]] = [
            ("GET", "/", self._root),
            ("GET", "/api/v1/operations", self._listed.answer),
            ("GET", "/api/v1/operations/{id}", self._show),
            ("GET", "/api/v1/operations/{id}/metrics", self._show_metrics),
            ("DELETE", "/api/v1/operations/{id}/cancel", self._cancel),
            ("POST", "/backend-shutdown", self._backend_stops),
        ]
        for domain, task in self._domains.items():
            # Made once: what the job of an operation without a parent has of its own.
            kept = JobOptions(
                result_ttl_s=RESULT_TTL_S if task.result_ttl_s is None else task.result_ttl_s
            )
            handlers.append(("POST", f"/{domain}/start", partial(self._start, domain, task, kept)))
            handlers.append(("POST", f"/{domain}/resume", self._resume))
        paths = dict.fromkeys((*(path for _, path, _ in handlers), "/health", "/metrics"))
        return [
            *(web.route(method, path, answering(handler)) for method, path, handler in handlers),
            *(web.options(path, preflight) for path in paths),
        ]

    def health(self) -> Mapping[str, Any]:
        if self._registrar is not None:
            self._registrar.heard()
        current = self._live.current()
        return {
            "healthy": self._runtime.is_accepting,
            "service": service_of(self.worker_type)[0],
            "timestamp": self._clock.now_utc(),
            "status": "operational",
            "worker_status": "idle" if current is None else "busy",
            "current_operation": current,
        }

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect(self._live.count())

    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
        """The backend shows `detail` where it is text, or else `message`."""
        document = {
            "success": False,
            "error": rejection.detail,
            "message": rejection.detail,
            "detail": rejection.detail,
            "status_code": rejection.status,
            **rejection.fields,
        }
        return json_answer(request, document, rejection.status, rejection.headers)

    def cross_origin(self, request: web.BaseRequest) -> Mapping[str, str]:
        return with_credentials(request)

    async def open(self) -> None:
        self._live.open()

    def listening(self, url: str) -> None:
        """The server listens: now the backend may be told where."""
        if self._registrar is None:
            return
        sample = self._runtime.doorway.resources.latest
        names = [task.name for task in self._runtime.tasks]
        worker = Registration(
            worker_id=self._worker_id,
            worker_type=self.worker_type,
            endpoint_url=_endpoint(self._settings, url),
            capabilities=capabilities(sample, names) | {"domains": list(self._domains)},
        )
        self._registrar.start(worker)

    async def close(self) -> None:
        if self._registrar is None:
            return
        kept = self._runtime.doorway.keeps_jobs
        text = "it runs again when the worker is back" if kept else "it was cancelled"
        message = f"Graceful shutdown of the worker - {text}"
        await self._registrar.stop(
            self._live.unfinished(), message, reports=self._live.has_ended_late
        )

    # Start

    async def _start(
        self, domain: str, task: TaskDefinition, kept: JobOptions, request: web.Request
    ) -> Any:
        body = await self._body.read(request)
        task_id = body.get("task_id")
        if task_id is not None and not isinstance(task_id, str):
            raise Rejection(422, "invalid_body", "`task_id`: must be text or null")
        parent_id = None
        if is_agent(domain):
            parent_id, task_id = _parent_id(task_id), None
        operation_id = task_id or f"{id_prefix(domain)}{self._runtime.doorway.new_job_id()[-12:]}"
        is_known = task_id is not None and await self._is_kept(operation_id)
        current = self._live.current()
        if current is not None and not is_known:
            return busy(request, current, self._live.count())
        args, kwargs = self._shapes[task.name].arguments(body)
        if parent_id is not None:
            kept = msgspec.structs.replace(kept, label=parent_id)
        options = EnqueueOptions(operation_id, overrides=kept, must_encode=True, wire=True)
        if not is_known:  # there may be a wait for the store; nobody else starts meanwhile
            self._live.starting = operation_id
        try:
            handle = await self._runtime.doorway.enqueue_with(options, task.name, args, kwargs)
        finally:
            if not is_known:
                self._live.starting = None
        if handle.is_new:
            logger.info("Starting operation: %s", operation_id)
            self._live.follow(handle.job)
        return {
            "success": True,
            "operation_id": operation_id,
            "status": "started",
            "worker_id": self._worker_id,
        }

    async def _resume(self, request: web.Request) -> Any:
        """There is nothing to resume from: a job has no checkpoints. The backend then lets its user
        start the operation anew."""
        operation_id = (await self._body.read(request)).get("operation_id")
        if not isinstance(operation_id, str) or not operation_id:
            raise Rejection(
                422, "invalid_body", "`operation_id`: must be text, the id of an operation"
            )
        text = f"No checkpoint found for operation {operation_id[:128]}: this worker keeps none; "
        raise Rejection(404, "no_checkpoint", f"{text}start it again")

    def _ended(self, job: Job) -> None:
        status = self._view.status(job)
        duration_s = None
        if job.started_at is not None and job.ended_at is not None:
            duration_s = max(0.0, job.ended_at - job.started_at)
        self._metrics.observe(type_of(job.task.domain or ""), status, duration_s)
        logger.info("Operation %s: %s", status, job.id)
        if self._registrar is not None:
            self._registrar.completed(self._view.completion(job))

    async def _is_kept(self, operation_id: str) -> bool:
        try:
            await self._runtime.job(operation_id)
        except UnknownJob:
            return False
        return True

    # Look and cancel

    async def _root(self, request: web.Request) -> Any:
        return {
            "service": service_of(self.worker_type)[1],
            "version": SERVICE_VERSION,
            "status": "running",
            "timestamp": self._clock.now_utc(),
            "worker_id": self._worker_id,
        }

    async def _show(self, request: web.Request) -> Any:
        flag(request, "force_refresh")  # every answer is fresh here
        return {"success": True, "data": self._view.describe(await self._operation(request))}

    async def _show_metrics(self, request: web.Request) -> Any:
        """The guide pages with `limit`, 100 unless given. The backend sends the cursor it has and
        no limit, and does not ask again once the operation has ended: it gets all that is left."""
        cursor = whole(request, "cursor", default=0, low=0, high=1 << 62)
        shown_max = METRICS_KEPT_MAX if request.query.get("cursor") else METRICS_SHOWN
        limit = whole(request, "limit", default=shown_max, low=1, high=PAGE_LIMIT_MAX)
        job = await self._operation(request)
        metrics = list(job.activity.metrics) if job.activity is not None else []
        dropped = job.activity.metrics_dropped if job.activity is not None else 0
        end = dropped + len(metrics)
        first = min(max(cursor, dropped), end)
        shown = metrics[first - dropped : first - dropped + limit]
        following = first + len(shown)
        data = {
            "operation_id": job.id,
            "operation_type": type_of(job.task.domain or job.task.name),
            "metrics": [metric_document(metric) for metric in shown],
            "cursor": str(following),
            "new_cursor": following,
            "has_more": following < end,
        }
        return {"success": True, "data": data}

    async def _cancel(self, request: web.Request) -> Any:
        job = await self._operation(request)
        reason = request.query.get("reason", "")[:REASON_CHARS_MAX] or CANCELLED_BY_USER
        status = self._view.status(job)
        accepted = status in ACTIVE_STATUSES and await self._runtime.cancel(job.id, reason)
        if not accepted:
            status = self._view.status(job)
            text = f"Operation {job.id} is already finished (status: {status})"
            data = {"success": False, "operation_id": job.id, "status": status, "error": text}
            return {"success": False, "message": text, "data": data}
        cancellation = self._view.cancelled(job, reason)
        data = {
            "success": True,
            "operation_id": job.id,
            "status": "cancelled",
            "cancelled_at": iso(cancellation.at),
            "cancellation_reason": reason,
            "task_cancelled": True,
            "remote_cancelled": False,
            "children_cancelled": [],
        }
        return {"success": True, "message": "Operation cancelled successfully", "data": data}

    async def _backend_stops(self, request: web.Request) -> Any:
        logger.info("the backend shuts down")
        if self._registrar is not None:
            self._registrar.backend_stops()
        return {"acknowledged": True}

    async def _operation(self, request: web.Request) -> Job:
        operation_id = request.match_info["id"]
        try:
            job = await self._runtime.job(operation_id)
        except UnknownJob:
            job = None
        if job is None or job.task.domain not in self._domains:
            text = f"Operation not found: {operation_id[:128]}"
            raise Rejection(404, "unknown_job", text)
        return job


def _domains(tasks: Sequence[TaskDefinition]) -> dict[str, TaskDefinition]:
    found: dict[str, TaskDefinition] = {}
    for task in tasks:
        if task.domain is None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", task.domain):
            raise ConfigurationError(
                f"task {task.name!r}: domain {task.domain!r} must be letters, digits, - and _, as "
                "it becomes a path"
            )
        other = found.setdefault(task.domain, task)
        if other is not task:
            raise ConfigurationError(
                f"tasks {other.name!r} and {task.name!r} have one domain, {task.domain!r}"
            )
    return found


def _parent_id(task_id: str | None) -> str | None:
    if task_id is not None and len(task_id) > PARENT_ID_CHARS_MAX:
        text = f"`task_id`: must have at most {PARENT_ID_CHARS_MAX} characters, not {len(task_id)}"
        raise Rejection(422, "invalid_body", text)
    return task_id or None


def _endpoint(settings: Settings, url: str) -> str:
    """Where the backend reaches this worker: as configured, else by the host's name, else (bound
    to loopback) where it listens."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    if settings.is_loopback:
        return url.rstrip("/")
    return f"http://{socket.gethostname()}:{urlsplit(url).port}"
