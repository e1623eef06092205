"""A value becomes the bytes of an answer, as JSON or as MessagePack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from worker_runtime.web.wire.bodies.media import JSON_TYPE, MSGPACK_TYPE, wants_msgpack
from worker_runtime.web.wire.bodies.response import FixedHeaders
from worker_runtime.web.wire.rejection import Rejection, problem_document

PROBLEM_TYPE = "application/problem+json"

encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode

JSON_HEADERS = FixedHeaders({"Content-Type": JSON_TYPE})
OPEN_JSON_HEADERS = FixedHeaders({"Content-Type": JSON_TYPE, "Access-Control-Allow-Origin": "*"})
_MSGPACK_HEADERS = FixedHeaders({"Content-Type": MSGPACK_TYPE})


def answer(
    request: web.BaseRequest,
    value: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """`value` as JSON, or as MessagePack where the Accept header prefers it."""
    packed = wants_msgpack(request)
    body = encode_msgpack(value) if packed else encode_json(value)
    if headers is None:
        return (_MSGPACK_HEADERS if packed else JSON_HEADERS).respond(body, status)
    kind = MSGPACK_TYPE if packed else JSON_TYPE
    return web.Response(body=body, status=status, headers=headers, content_type=kind)


def problem(request: web.BaseRequest, rejection: Rejection) -> web.Response:
    """The native dialect's refusal, and that of everything outside of a dialect."""
    return web.Response(
        body=encode_json(problem_document(rejection)),
        status=rejection.status,
        headers=rejection.headers,
        content_type=PROBLEM_TYPE,
    )
