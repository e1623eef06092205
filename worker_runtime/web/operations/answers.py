"""How operations are asked for and answered: queries, and cross-origin answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import hdrs, web

from worker_runtime.web.wire.bodies.answers import OPEN_JSON_HEADERS, encode_json
from worker_runtime.web.wire.rejection import Rejection

BUSY_RETRY_AFTER_S = 5

Handler = Callable[[web.Request], Awaitable[Any]]


def busy(request: web.Request, current: str, active: int) -> web.Response:
    message = f"the worker runs {current}; one operation at a time"
    detail = {
        "error": "Worker busy",
        "message": message,
        "current_operation": current,
        "active_operations_count": active,
    }
    document = {
        "error": "Worker busy",
        "current_operation": current,
        "status_code": 503,
        "detail": detail,
        "message": message,
    }
    return json_answer(request, document, 503, {hdrs.RETRY_AFTER: str(BUSY_RETRY_AFTER_S)})


# Queries


def word(request: web.Request, name: str, allowed: Iterable[str]) -> str | None:
    given = request.query.get(name)
    words = list(allowed)
    if given is not None and given not in words:
        detail = f"`{name}`: must be one of {', '.join(words)}, not {given[:40]!r}"
        raise Rejection(422, "invalid_query", detail)
    return given


def whole(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    given = request.query.get(name)
    if given is None or given == "":
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 20 and low <= int(given) <= high):
        detail = f"`{name}`: must be a whole number from {low} to {high}, not {given[:40]!r}"
        raise Rejection(422, "invalid_query", detail)
    return int(given)


def flag(request: web.Request, name: str) -> bool:
    given = request.query.get(name, "false").lower()
    if given in ("true", "1", "yes", "on"):
        return True
    if given in ("false", "0", "no", "off", ""):
        return False
    raise Rejection(422, "invalid_query", f"`{name}`: must be true or false, not {given[:40]!r}")


# Answers


def answering(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        answered = await handler(request)
        if type(answered) is dict:  # a response's own class is an abstract one, slow to ask
            return json_answer(request, answered)
        response: web.StreamResponse = answered
        return response

    return answer


def cross_origin(request: web.BaseRequest) -> dict[str, str]:
    """Any origin, with credentials: the backend's browsers talk to its workers directly."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*"}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS: "true",
        hdrs.VARY: "Origin",
    }


async def preflight(request: web.Request) -> web.Response:
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "*")
    headers = {
        **cross_origin(request),
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: asked,
        hdrs.ACCESS_CONTROL_MAX_AGE: "600",
    }
    return web.Response(text="OK", headers=headers)


def json_answer(
    request: web.BaseRequest,
    document: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    if headers is None and hdrs.ORIGIN not in request.headers:
        return OPEN_JSON_HEADERS.respond(encode_json(document), status)
    return web.Response(
        body=encode_json(document),
        status=status,
        headers={"Content-Type": "application/json", **cross_origin(request), **(headers or {})},
    )
