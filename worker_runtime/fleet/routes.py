"""The fleet's HTTP routes, to mount in a backend's own aiohttp application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from worker_runtime.contracts.incoming import TooManyBytes, read_at_most, truth_of
from worker_runtime.contracts.origins import SAFE_METHODS, foreign_page, spelled_alike
from worker_runtime.contracts.registration import CompletedOperation, Registration, StatusChange
from worker_runtime.fleet.front import Fleet, FleetError

BODY_BYTES_MAX = 2 << 20
BODY_TIMEOUT_S = 10.0

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[Any]]


def mount(
    app: web.Application, fleet: Fleet, *, manage: bool = True, cors_origins: Iterable[str] = ()
) -> None:
    """Serve the registry, dispatch and operations of `fleet` from `app`.

    `manage` starts the fleet with the application and stops it with it, announced to the workers.
    Whoever can reach these routes can register a worker: keep them on the fleet's own network. A
    web page of another origin may change nothing, unless it is one of `cors_origins`.
    """
    routes = _Routes(fleet)
    named = spelled_alike(cors_origins)
    for method, path, handler in (
        ("POST", "/api/v1/workers/register", routes.register),
        ("POST", "/workers/register", routes.register),
        ("GET", "/api/v1/workers", routes.workers),
        ("GET", "/api/v1/workers/{id}", routes.worker),
        ("DELETE", "/api/v1/workers/{id}", routes.remove),
        ("POST", "/api/v1/{domain}/start", routes.start),
        ("GET", "/api/v1/operations/{id}", routes.operation),
        ("GET", "/api/v1/operations/{id}/metrics", routes.metrics),
        ("DELETE", "/api/v1/operations/{id}/cancel", routes.cancel),
        ("DELETE", "/api/v1/operations/{id}", routes.cancel),
        ("PATCH", "/api/v1/operations/{id}/status", routes.change_status),
    ):
        answer = _answered(handler, named)
        if method == "GET":
            app.router.add_get(path, answer)  # and HEAD
        else:
            app.router.add_route(method, path, answer)
    if manage:
        app.cleanup_ctx.append(_running(fleet))


class _Routes:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def register(self, request: web.Request) -> Any:
        return self._fleet.register(await _body(request, Registration)).document()

    async def workers(self, request: web.Request) -> Any:
        """Filtered by `worker_type` and `status`; an unknown status matches nothing."""
        kind, status = request.query.get("worker_type"), request.query.get("status")
        return [
            member.document()
            for member in self._fleet.members
            if (kind is None or member.type == kind)
            and (status is None or member.status.lower() == status.lower())
        ]

    async def worker(self, request: web.Request) -> Any:
        worker_id = request.match_info["id"]
        member = self._fleet.members.get(worker_id)
        if member is None:
            raise FleetError(404, f"Worker not found: {worker_id[:128]}")
        return member.document()

    async def remove(self, request: web.Request) -> Any:
        worker_id = request.match_info["id"]
        if not self._fleet.remove(worker_id):
            raise FleetError(404, f"Worker not found: {worker_id[:128]}")
        return {"success": True, "worker_id": worker_id}

    async def start(self, request: web.Request) -> Any:
        body = await _body(request, dict[str, Any])
        return await self._fleet.start_operation(request.match_info["domain"], body)

    async def operation(self, request: web.Request) -> Any:
        fresh = truth_of(request.query.get("force_refresh", "")) is True
        return _data(await self._fleet.operation(request.match_info["id"], force_refresh=fresh))

    async def metrics(self, request: web.Request) -> Any:
        text = request.query.get("cursor", "0")
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise FleetError(422, f"cursor must be a whole number, not {text[:40]!r}")
        return _data(await self._fleet.operation_metrics(request.match_info["id"], int(text)))

    async def cancel(self, request: web.Request) -> Any:
        reason = request.query.get("reason", "")[:500]
        return _data(await self._fleet.cancel_operation(request.match_info["id"], reason))

    async def change_status(self, request: web.Request) -> Any:
        """A worker tells how an operation ended that it cannot be asked about any more."""
        operation_id = request.match_info["id"]
        change = await _body(request, StatusChange)
        document = {
            "operation_id": operation_id,
            "status": change.status,
            "completed_at": self._fleet.clock.now_utc(),
            "error_message": change.error_message,
        }
        try:
            self._fleet.complete(msgspec.convert(document, CompletedOperation))
        except msgspec.ValidationError as error:
            raise FleetError(422, str(error)) from None
        return {"success": True, "operation_id": operation_id, "new_status": change.status}


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        data = await read_at_most(request.content, BODY_BYTES_MAX, timeout_s=BODY_TIMEOUT_S)
        return msgspec.json.decode(data, type=kind)
    except TooManyBytes:
        raise FleetError(413, f"the body is larger than {BODY_BYTES_MAX} bytes") from None
    except TimeoutError:
        raise FleetError(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
    except msgspec.ValidationError as error:
        raise FleetError(422, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FleetError(400, f"the body is not JSON: {error}") from None


def _data(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


def _answered(
    handler: Handler, named: frozenset[str]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        try:
            if request.method not in SAFE_METHODS:
                _check_page(request, named)
            return _json(await handler(request), 200)
        except FleetError as error:
            headers = {"Retry-After": "5"} if error.status == 503 else None
            return _json({"detail": str(error)}, error.status, headers)

    return answer


def _check_page(request: web.Request, named: frozenset[str]) -> None:
    page = foreign_page(request.headers, named)
    if page is not None:
        raise FleetError(403, f"{page} may change nothing here")


def _json(document: Any, status: int, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _running(fleet: Fleet) -> Callable[[web.Application], AsyncIterator[None]]:
    async def around(app: web.Application) -> AsyncIterator[None]:
        await fleet.start()
        yield
        await fleet.stop(announce=True)

    return around
