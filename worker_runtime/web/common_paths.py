"""The paths of a whole application that belong to no dialect, or to all of them: probes, health,
metrics, and whatever is not served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import Metric
from prometheus_client.registry import Collector

from worker_runtime.metrics import CONTENT_TYPE as PROMETHEUS_TYPE
from worker_runtime.metrics import exposition
from worker_runtime.runtime import Runtime
from worker_runtime.web.wire.bodies.answers import json_response, problem
from worker_runtime.web.wire.bodies.media import JSON_TYPE
from worker_runtime.web.wire.dialect import Dialect, Refuse
from worker_runtime.web.wire.rejection import Rejection, not_served

# Who watches asks here, under whatever host it knows the worker by.
PROBED = frozenset({"/livez", "/readyz", "/health", "/metrics", "/metrics/prometheus"})


class CommonPaths:
    """`dialects` in their order: the first one's words, its refusals and its manner towards other
    origins' pages are those of the common paths."""

    def __init__(self, runtime: Runtime, dialects: Sequence[Dialect]) -> None:
        self._runtime = runtime
        self._dialects = dialects
        self._collectors = [_DialectCollector(dialect) for dialect in dialects]
        self._cross_origin = dialects[0].cross_origin
        self._refusals: dict[str, Refuse] = {}
        for dialect in dialects:
            for route in dialect.routes():  # a path that two of them have is the first one's
                self._refusals.setdefault(route.path, dialect.refuse)

    def open_routes(self) -> list[web.RouteDef]:
        """Those that never need a token: an orchestrator's probes have none."""
        return [
            web.get("/livez", self._live),
            web.get("/readyz", self._ready),
            web.get("/health", self._health),
        ]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metrics", self._metrics),
            web.get("/metrics/prometheus", self._prometheus),
        ]

    async def _live(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if self._runtime.is_accepting:
            return web.Response(text="ready\n")
        return web.Response(text="not ready: no new jobs are accepted\n", status=503)

    async def _health(self, request: web.Request) -> web.Response:
        """The union of all dialects' fields; where two disagree, the first dialect's word."""
        fields: dict[str, Any] = {}
        for dialect in reversed(self._dialects):
            fields.update(dialect.health())
        return json_response(fields, headers=self._cross_origin(request))

    async def _metrics(self, request: web.Request) -> web.Response:
        wants_json = JSON_TYPE in request.headers.get(hdrs.ACCEPT, "")
        for place, dialect in enumerate(self._dialects):
            document = dialect.metrics_document() if place == 0 or wants_json else None
            if document is not None:
                return json_response(document, headers=self._cross_origin(request))
        return await self._prometheus(request)

    async def _prometheus(self, request: web.Request) -> web.Response:
        return web.Response(
            body=exposition(self._runtime, *self._collectors),
            headers={hdrs.CONTENT_TYPE: PROMETHEUS_TYPE, **self._cross_origin(request)},
        )

    async def no_route(self, request: web.Request) -> web.StreamResponse:
        """What the router would say on its own, 404 or 405, in our shape."""
        allowed: set[str] = set()
        refuse: Refuse = problem
        for resource in request.app.router.resources():
            match, methods = await resource.resolve(request)
            if match is None and methods:
                allowed |= methods
                refuse = self._refusals.get(resource.canonical, problem)
        if not allowed:
            raise not_served(request)
        listing = ", ".join(sorted(allowed))
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204, headers={hdrs.ALLOW: f"{listing}, OPTIONS"})
        detail = f"{request.method[:40]} is not allowed here; allowed: {listing}"
        headers = {"Allow": listing}
        return refuse(request, Rejection(405, "method_not_allowed", detail, headers))


class _DialectCollector(Collector):
    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def collect(self) -> Iterable[Metric]:
        return self._dialect.collect()
