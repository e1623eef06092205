"""A value becomes the bytes of an answer, as JSON or as MessagePack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from worker_runtime.model.bounded import cleaned
from worker_runtime.web.wire.bodies.media import JSON_TYPE, MSGPACK_TYPE, wants_msgpack
from worker_runtime.web.wire.bodies.response import FixedHeaders
from worker_runtime.web.wire.cross_origin import ANY_ORIGIN
from worker_runtime.web.wire.rejection import Rejection, problem_document

PROBLEM_TYPE = "application/problem+json"

encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode


def json_of(document: Any) -> bytes:
    """`document` as JSON, whatever its texts are: one that UTF-8 has no form for, and that slipped
    past the place where it came in, must not take everything else from an answer."""
    try:
        return encode_json(document)
    except UnicodeEncodeError:
        return _cleaned_json(document)


def _cleaned_json(document: Any) -> bytes:
    return encode_json(cleaned(document, msgspec.json.decode))  # of a result, encoded already


def _cleaned_msgpack(document: Any) -> bytes:
    return encode_msgpack(cleaned(document, msgspec.msgpack.decode))


JSON_HEADERS = FixedHeaders({"Content-Type": JSON_TYPE})
OPEN_JSON_HEADERS = FixedHeaders({"Content-Type": JSON_TYPE, **ANY_ORIGIN})
_MSGPACK_HEADERS = FixedHeaders({"Content-Type": MSGPACK_TYPE})


def plain_json(document: Any) -> web.Response:
    """200 with `document` and no headers of its own."""
    return JSON_HEADERS.respond(json_of(document))


def open_json(document: Any) -> web.Response:
    """The same, and pages of any origin may read it."""
    return OPEN_JSON_HEADERS.respond(json_of(document))


def json_response(
    document: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = JSON_TYPE,
) -> web.Response:
    """Any other answer in JSON."""
    return web.Response(
        body=json_of(document), status=status, headers=headers, content_type=media_type
    )


def answer(
    request: web.BaseRequest,
    value: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """`value` as JSON, or as MessagePack where the Accept header prefers it."""
    packed = wants_msgpack(request)
    try:
        body = encode_msgpack(value) if packed else encode_json(value)
    except UnicodeEncodeError:
        body = _cleaned_msgpack(value) if packed else _cleaned_json(value)
    if headers is None:
        return (_MSGPACK_HEADERS if packed else JSON_HEADERS).respond(body, status)
    kind = MSGPACK_TYPE if packed else JSON_TYPE
    return web.Response(body=body, status=status, headers=headers, content_type=kind)


def problem(request: web.BaseRequest, rejection: Rejection) -> web.Response:
    """The native dialect's refusal, and that of everything outside of a dialect."""
    document = problem_document(rejection)
    return json_response(document, rejection.status, rejection.headers, media_type=PROBLEM_TYPE)
