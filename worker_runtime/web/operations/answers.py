"""How operations are answered. Pages of any origin may read it, with credentials: the backend's
browsers talk to its workers directly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import hdrs, web

from worker_runtime.web.wire.bodies.answers import OPEN_JSON_HEADERS, json_of, json_response
from worker_runtime.web.wire.cross_origin import preflight_headers, with_credentials

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


def answering(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        answered = await handler(request)
        if type(answered) is dict:  # a response's own class is an abstract one, slow to ask
            return json_answer(request, answered)
        response: web.StreamResponse = answered
        return response

    return answer


async def preflight(request: web.Request) -> web.Response:
    headers = preflight_headers(
        with_credentials(request),
        methods="DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
        headers=request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "*"),
        max_age_s=600,
    )
    return web.Response(text="OK", headers=headers)


def json_answer(
    request: web.BaseRequest,
    document: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    if headers is None and hdrs.ORIGIN not in request.headers:
        return OPEN_JSON_HEADERS.respond(json_of(document), status)
    return json_response(document, status, {**with_credentials(request), **(headers or {})})
