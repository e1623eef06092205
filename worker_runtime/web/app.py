"""Puts dialects onto an aiohttp application: into somebody's own, or into a whole one of ours.

Handlers stand directly on the application's router, without middleware: a middleware would cost
every request, and an embedding application's own must not be needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import hdrs, web

from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web.common_paths import PROBED, CommonPaths
from worker_runtime.web.native.dialect import Native
from worker_runtime.web.operations.dialect import Operations
from worker_runtime.web.sandbox.dialect import Sandbox
from worker_runtime.web.vera.dialect import Vera
from worker_runtime.web.wire.access import Access
from worker_runtime.web.wire.bodies.answers import problem
from worker_runtime.web.wire.bodies.response import TAIL, Tail
from worker_runtime.web.wire.connection import expecting
from worker_runtime.web.wire.dialect import Dialect, Handler, Refuse, guarded

NATIVE_PREFIX = "/v1"

# What a dialect to come needs besides its class here, docs/adding.md says.
DIALECTS: dict[str, Callable[[Runtime, Settings], Dialect]] = {
    "sandbox": Sandbox,
    "vera": Vera,
    "operations": Operations,
}

_SERVED = web.AppKey("dialects", list[Dialect])


def mount(
    app: web.Application, runtime: Runtime, prefix: str = NATIVE_PREFIX, *, manage: bool = False
) -> None:
    """Serve the native API from `app`: `{prefix}/jobs`, `{prefix}/queues`, `{prefix}/tasks`.

    `manage=True` starts the runtime with the application and stops it with it; otherwise that is
    the caller's affair. The runtime's token, if its settings have one, is asked for here too, and
    other origins' pages may change nothing, unless its settings name them; which hosts the
    application goes by is its own affair. Raises ValueError for a prefix that is not a path.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(f"prefix must be a path like '/jobs', not {prefix!r}")
    app[TAIL] = Tail(runtime.doorway.clock)
    access = Access(runtime.settings, listens=False)
    add_dialect(app, Native(runtime, runtime.settings, prefix=prefix), access)
    if manage:
        app.cleanup_ctx.append(_running(runtime))


def build_app(runtime: Runtime, settings: Settings | None = None) -> web.Application:
    """The whole server's application: `/v1`, every enabled dialect at the root, `/livez`,
    `/readyz`, `/health` and `/metrics`. Starting and stopping the runtime is the caller's affair.

    It is for the host that the settings have: where that is loopback and there is no token, it
    answers to loopback names alone and to those in `hosts`.
    """
    settings = settings or runtime.settings
    access = Access(settings, listens=True)
    app = web.Application()
    app[TAIL] = Tail(runtime.doorway.clock)
    enabled = [DIALECTS[name](runtime, settings) for name in settings.dialects if name in DIALECTS]
    native = Native(runtime, settings, prefix=NATIVE_PREFIX)
    dialects: list[Dialect] = [*enabled, native]
    common = CommonPaths(runtime, dialects)
    refuse = dialects[0].refuse
    for route in common.open_routes():
        check = access.check_of(route.method, needs_host=False, needs_token=False)
        _add_route(app, route, guarded(route.handler, refuse, check), refuse)
    for route in common.routes():
        check = access.check_of(route.method, needs_host=False)
        _add_route(app, route, guarded(route.handler, refuse, check), refuse)
    for dialect in dialects:
        add_dialect(app, dialect, access)
    rest = web.route("*", "/{path:(?s:.*)}", common.no_route)  # line breaks too
    _add_route(app, rest, guarded(rest.handler, problem, access.check_of(rest.method)), problem)
    app[_SERVED] = dialects
    return app


def tell_listening(app: web.Application, url: str) -> None:
    """Tell an application of `build_app` that it is reached at `url` from now on."""
    for dialect in app[_SERVED]:
        dialect.listening(url)


def add_dialect(app: web.Application, dialect: Dialect, access: Access) -> None:
    """Put one dialect's routes on the application's own router, and its life into the app's."""
    for route in dialect.routes():
        is_open = route.path in dialect.open_paths
        check = access.check_of(
            route.method,
            needs_host=not is_open and route.path not in PROBED,
            # A browser's preflight carries no token.
            needs_token=not is_open and route.method != hdrs.METH_OPTIONS,
        )
        handler = guarded(route.handler, dialect.refuse, check)
        _add_route(app, route, handler, dialect.refuse)
    app.cleanup_ctx.append(_open(dialect))


def _add_route(app: web.Application, route: web.RouteDef, handler: Handler, refuse: Refuse) -> None:
    expect = expecting(refuse)
    if route.method == hdrs.METH_GET:
        app.router.add_get(route.path, handler, expect_handler=expect)  # and HEAD
    else:
        app.router.add_route(route.method, route.path, handler, expect_handler=expect)


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
