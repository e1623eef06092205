"""Puts dialects onto an aiohttp application: into somebody's own, or into a whole one of ours.

Handlers stand directly on the application's router, without middleware: a middleware would cost
every request, and an embedding application's own must not be needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import Metric
from prometheus_client.registry import Collector

from worker_runtime.metrics import CONTENT_TYPE as PROMETHEUS_TYPE
from worker_runtime.metrics import exposition
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web.native.dialect import Native
from worker_runtime.web.operations.answers import cross_origin
from worker_runtime.web.operations.dialect import Operations
from worker_runtime.web.sandbox.dialect import Sandbox
from worker_runtime.web.vera.dialect import Vera
from worker_runtime.web.wire.bodies.answers import encode_json, problem
from worker_runtime.web.wire.bodies.media import JSON_TYPE
from worker_runtime.web.wire.connection import expecting
from worker_runtime.web.wire.dialect import Dialect, Handler, Refuse, guarded
from worker_runtime.web.wire.rejection import Rejection

NATIVE_PREFIX = "/v1"

# A dialect to come needs its class here and its row in `contracts.guides`, nothing else.
DIALECTS: dict[str, Callable[[Runtime, Settings], Dialect]] = {
    "sandbox": Sandbox,
    "vera": Vera,
    "operations": Operations,
}

_OPERATIONS = web.AppKey("operations", list[Operations])
_OPEN_TO_ANY_ORIGIN: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*"}


def mount(
    app: web.Application, runtime: Runtime, prefix: str = NATIVE_PREFIX, *, manage: bool = False
) -> None:
    """Serve the native API from `app`: `{prefix}/jobs`, `{prefix}/queues`, `{prefix}/tasks`.

    `manage=True` starts the runtime with the application and stops it with it; otherwise that is
    the caller's affair. The runtime's token, if its settings have one, is asked for here too.
    Raises ValueError for a prefix that is not a path.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(f"prefix must be a path like '/jobs', not {prefix!r}")
    add_dialect(app, Native(runtime, runtime.settings, prefix=prefix), runtime.settings.token)
    if manage:
        app.cleanup_ctx.append(_running(runtime))


def build_app(runtime: Runtime, settings: Settings | None = None) -> web.Application:
    """The whole server's application: `/v1`, every enabled dialect at the root, `/livez`,
    `/readyz`, `/health` and `/metrics`. Starting and stopping the runtime is the caller's affair.
    """
    settings = settings or runtime.settings
    app = web.Application()
    enabled = [DIALECTS[name](runtime, settings) for name in settings.dialects if name in DIALECTS]
    native = Native(runtime, settings, prefix=NATIVE_PREFIX)
    dialects: list[Dialect] = [*enabled, native]
    site = _Site(runtime, dialects)
    refuse = dialects[0].refuse
    for method, path, handler in site.open_routes():
        _add_route(app, method, path, guarded(handler, refuse), refuse)
    for method, path, handler in site.routes():
        _add_route(app, method, path, guarded(handler, refuse, settings.token), refuse)
    for dialect in dialects:
        add_dialect(app, dialect, settings.token)
        for route in dialect.routes():  # a path that two of them have is the first one's
            site.refusals.setdefault(route.path, dialect.refuse)
    _add_route(app, "*", "/{path:.*}", guarded(site.no_route, problem, settings.token), problem)
    app[_OPERATIONS] = [dialect for dialect in dialects if isinstance(dialect, Operations)]
    return app


def tell_listening(app: web.Application, url: str) -> None:
    """Tell an application of `build_app` that it is reached at `url` from now on."""
    for dialect in app[_OPERATIONS]:
        dialect.listening(url)


def add_dialect(app: web.Application, dialect: Dialect, token: str | None = None) -> None:
    """Put one dialect's routes on the application's own router, and its life into the app's."""
    for route in dialect.routes():
        # A browser's preflight carries no token.
        exempt = route.method == hdrs.METH_OPTIONS or route.path in dialect.open_paths
        handler = guarded(route.handler, dialect.refuse, None if exempt else token)
        _add_route(app, route.method, route.path, handler, dialect.refuse)
    app.cleanup_ctx.append(_open(dialect))


def _add_route(
    app: web.Application, method: str, path: str, handler: Handler, refuse: Refuse
) -> None:
    expect = expecting(refuse)
    if method == hdrs.METH_GET:
        app.router.add_get(path, handler, expect_handler=expect)  # and HEAD
    else:
        app.router.add_route(method, path, handler, expect_handler=expect)


def _open(dialect: Dialect) -> Callable[[web.Application], AsyncIterator[None]]:
    async def around(app: web.Application) -> AsyncIterator[None]:
        await dialect.open()
        yield
        await dialect.close()

    return around


def _running(runtime: Runtime) -> Callable[[web.Application], AsyncIterator[None]]:
    async def around(app: web.Application) -> AsyncIterator[None]:
        async with runtime:
            yield

    return around


class _Site:
    """The paths that belong to no dialect, or to all of them."""

    def __init__(self, runtime: Runtime, dialects: Sequence[Dialect]) -> None:
        self._runtime = runtime
        self._dialects = dialects
        self._collectors = [_DialectCollector(dialect) for dialect in dialects]
        self._echoes_origin = isinstance(dialects[0], Operations)
        self.refusals: dict[str, Refuse] = {}

    def open_routes(self) -> list[tuple[str, str, Handler]]:
        """Those that never need a token: an orchestrator's probes have none."""
        return [
            ("GET", "/livez", self._live),
            ("GET", "/readyz", self._ready),
            ("GET", "/health", self._health),
        ]

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/metrics", self._metrics),
            ("GET", "/metrics/prometheus", self._prometheus),
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
        return _json(fields, self._cross_origin(request))

    async def _metrics(self, request: web.Request) -> web.Response:
        wants_json = JSON_TYPE in request.headers.get(hdrs.ACCEPT, "")
        for place, dialect in enumerate(self._dialects):
            document = dialect.metrics_document() if place == 0 or wants_json else None
            if document is not None:
                return _json(document, self._cross_origin(request))
        return await self._prometheus(request)

    async def _prometheus(self, request: web.Request) -> web.Response:
        return web.Response(
            body=exposition(self._runtime, *self._collectors),
            headers={hdrs.CONTENT_TYPE: PROMETHEUS_TYPE, **self._cross_origin(request)},
        )

    def _cross_origin(self, request: web.Request) -> dict[str, str]:
        """Any origin may read; with credentials too where the first dialect's contract says so."""
        return cross_origin(request) if self._echoes_origin else dict(_OPEN_TO_ANY_ORIGIN)

    async def no_route(self, request: web.Request) -> web.StreamResponse:
        """What the router would say on its own, 404 or 405, in our shape."""
        allowed: set[str] = set()
        refuse: Refuse = problem
        for resource in request.app.router.resources():
            match, methods = await resource.resolve(request)
            if match is None and methods:
                allowed |= methods
                refuse = self.refusals.get(resource.canonical, problem)
        if not allowed:
            raise Rejection(404, "not_found", f"nothing is served at {request.path[:200]!r}")
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


def _json(fields: Mapping[str, Any], headers: Mapping[str, str]) -> web.Response:
    return web.Response(body=encode_json(fields), headers=headers, content_type=JSON_TYPE)
