"""A request's bytes become a value, within limits of size, time and depth."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from worker_runtime.contracts.incoming import TooManyBytes, read_at_most
from worker_runtime.web.wire.bodies.media import check_encoding, is_msgpack
from worker_runtime.web.wire.bodies.nesting import is_json_deeper, is_msgpack_deeper
from worker_runtime.web.wire.rejection import Rejection

T = TypeVar("T")

BODY_TIMEOUT_S = 30.0
DEPTH_MAX = 32


async def read_body(request: web.BaseRequest, bytes_max: int) -> bytes:
    """The whole body, chunked or not. Raises Rejection: 413 above `bytes_max`, 408 when it takes
    longer than `BODY_TIMEOUT_S` to arrive, 415 where it is said to be compressed."""
    check_encoding(request)
    content = request.content
    if content.is_eof():  # it has arrived with the headers, as small ones do
        body = content.read_nowait()
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    try:
        return await read_at_most(content, bytes_max, timeout_s=BODY_TIMEOUT_S)
    except TooManyBytes:
        raise _too_large(bytes_max) from None
    except TimeoutError:
        detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise Rejection(408, "request_timeout", detail, {"Connection": "close"}) from None


def _too_large(bytes_max: int) -> Rejection:
    detail = f"the body is larger than the {bytes_max} bytes allowed"
    return Rejection(413, "payload_too_large", detail, {"Connection": "close"})


class Body(Generic[T]):
    """Decodes bodies of one type. Make one per type, not per request."""

    def __init__(self, kind: Any, *, bytes_max: int, name: str = "body") -> None:
        self._json = msgspec.json.Decoder(kind).decode
        self._msgpack = msgspec.msgpack.Decoder(kind).decode
        self._bytes_max = bytes_max
        self._name = name

    async def read(self, request: web.BaseRequest) -> T:
        """The request's body by its Content-Type. Raises Rejection: 400 malformed or too deep, 408,
        413, 415, 422 for values of a wrong type."""
        packed = is_msgpack(request)
        return self.decode(await read_body(request, self._bytes_max), packed=packed)

    async def read_as_json(self, request: web.BaseRequest) -> T:
        """The request's body as JSON, whatever its Content-Type says. Raises as `read` does."""
        return self.decode(await read_body(request, self._bytes_max))

    def decode(self, data: bytes, *, packed: bool = False) -> T:
        """`data` as JSON, or as MessagePack. Raises Rejection."""
        if not data:
            raise Rejection(400, "malformed_body", f"the {self._name} is empty")
        is_deeper = is_msgpack_deeper if packed else is_json_deeper
        try:
            if is_deeper(data, DEPTH_MAX):
                raise _too_deep()
            value: T = self._msgpack(data) if packed else self._json(data)
        except msgspec.ValidationError as error:
            raise Rejection(422, "invalid_body", explain(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
            kind = "MessagePack" if packed else "JSON"
            detail = f"the {self._name} is not valid {kind}: {error}"
            raise Rejection(400, "malformed_body", detail[:500]) from None
        except RecursionError:
            raise _too_deep() from None
        return value


def _too_deep() -> Rejection:
    detail = f"the body is nested deeper than the {DEPTH_MAX} levels allowed"
    return Rejection(400, "too_deep", detail)


def explain(error: msgspec.ValidationError) -> str:
    """msgspec's sentence, its `$.field[0]` path put first."""
    problem, _, path = str(error).partition(" - at `$")
    place = path.rstrip("`").removeprefix(".")
    text = f"`{place}`: {problem[:1].lower()}{problem[1:]}" if place else problem
    return text[:500]
