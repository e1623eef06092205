"""Requests that are not served: what is wrong with one, in no dialect's shape yet, and which errors
amount to which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestPayloadError

from worker_runtime import errors
from worker_runtime.contracts.error_codes import status_and_code


class Rejection(Exception):
    """A request that is not served, in no dialect's shape yet.

    code     a word for programs, for example `queue_full`
    detail   a sentence for people: what is wrong and what is allowed
    headers  to send along
    fields   further facts for programs, for example the place in line
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.fields = fields or {}


def not_served(request: web.BaseRequest) -> Rejection:
    return Rejection(404, "not_found", f"nothing is served at {request.path[:200]!r}")


def rejection_of(error: BaseException) -> Rejection:
    """The rejection that `error` amounts to. One we did not expect is 500 and says nothing."""
    if isinstance(error, Rejection):
        return error
    known = status_and_code(error)
    if known is not None:
        if isinstance(error, errors.Unavailable):
            retry_after = {"Retry-After": str(max(1, round(error.retry_after_s)))}
            return Rejection(*known, str(error), retry_after, _outlook(error))
        return Rejection(*known, str(error))
    if isinstance(error, web.HTTPException):
        allow = error.headers.get(hdrs.ALLOW)
        headers = None if allow is None else {"Allow": allow}
        return Rejection(error.status, "http_error", error.reason, headers)
    if isinstance(error, RequestPayloadError):
        detail = "the body is not framed as its Content-Length or Transfer-Encoding says"
        return Rejection(400, "malformed_body", detail)
    return Rejection(500, "internal_error", "the worker failed to answer; its log says why")


def _outlook(error: errors.Unavailable) -> dict[str, Any]:
    """Where the job would have stood and how long it would have waited, as far as it is known."""
    facts: dict[str, Any] = {}
    if error.position is not None:
        facts["position"] = error.position
    if error.predicted_wait_s is not None:
        facts["predicted_wait_s"] = round(error.predicted_wait_s, 3)
    return facts


def problem_document(rejection: Rejection) -> dict[str, Any]:
    """The rejection as RFC 9457 has it; `code` is our extension, a word for programs."""
    return {
        "type": f"urn:worker-runtime:problem:{rejection.code.replace('_', '-')}",
        "title": rejection.code.replace("_", " ").capitalize(),
        "status": rejection.status,
        "detail": rejection.detail,
        "code": rejection.code,
        **rejection.fields,
    }
