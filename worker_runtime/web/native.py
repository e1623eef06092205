"""The native dialect, `/v1`: jobs, queues and tasks as resources."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import Metric

from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web import wire
from worker_runtime.web.wire import Rejection, answer


class Native:
    """Errors are RFC 9457 problem documents."""

    name = "native"

    def __init__(self, runtime: Runtime, settings: Settings, *, prefix: str) -> None:
        self._runtime = runtime
        self._prefix = prefix

    def routes(self) -> Sequence[web.RouteDef]:
        at = self._prefix
        return [web.get(f"{at}/queues", self._queues)]

    def health(self) -> Mapping[str, Any]:
        accepting = self._runtime.is_accepting
        uptime_s = time.time() - (self._runtime.started_at or time.time())
        return {
            "healthy": accepting,
            "status": "ok" if accepting else "stopping",
            "uptime": int(uptime_s),
        }

    def collect(self) -> Iterable[Metric]:
        return ()

    def metrics_document(self) -> Mapping[str, Any] | None:
        return None

    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
        return wire.problem(request, rejection)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def _queues(self, request: web.Request) -> web.Response:
        return answer(request, {"queues": self._runtime.queue_infos()})
