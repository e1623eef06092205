"""Bodies in and out: what every HTTP dialect shares and none of them decides.

Reading a request's body within its limits of size, time and depth, as JSON or MessagePack;
writing an answer as either; and the one table from an error to a status. What a refusal looks like
in an answer is the dialect's own affair (`Dialect.refuse`).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestPayloadError
from prometheus_client import Metric

from worker_runtime import errors
from worker_runtime.web.wire.bodies.nesting import is_json_deeper, is_msgpack_deeper
from worker_runtime.web.wire.bodies.response import FixedHeaders

logger = logging.getLogger("worker_runtime.web")

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_TIMEOUT_S = 30.0
DEPTH_MAX = 32

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"
_JSON_TYPES = frozenset({JSON_TYPE})
_MSGPACK_TYPES = frozenset({MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"})

encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode

JSON_HEADERS = FixedHeaders({"Content-Type": JSON_TYPE})
OPEN_JSON_HEADERS = FixedHeaders({"Content-Type": JSON_TYPE, "Access-Control-Allow-Origin": "*"})
_MSGPACK_HEADERS = FixedHeaders({"Content-Type": MSGPACK_TYPE})


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


# The first class that fits counts, so subclasses come before their bases.
_STATUS_OF: tuple[tuple[type[BaseException], int, str], ...] = (
    (errors.InvalidArguments, 422, "invalid_arguments"),
    (errors.InvalidJob, 422, "invalid_job"),
    (errors.UnknownTask, 404, "unknown_task"),
    (errors.UnknownQueue, 404, "unknown_queue"),
    (errors.UnknownJob, 404, "unknown_job"),
    (errors.JobConflict, 409, "job_conflict"),
    (errors.InvalidTransition, 409, "invalid_transition"),
    (errors.PayloadTooLarge, 413, "payload_too_large"),
    (errors.QueueFull, 503, "queue_full"),
    (errors.Overloaded, 503, "overloaded"),
    (errors.StoreUnavailable, 503, "store_unavailable"),
    (errors.ShuttingDown, 503, "shutting_down"),
    (errors.Unavailable, 503, "unavailable"),
)


def rejection_of(error: BaseException) -> Rejection:
    """The rejection that `error` amounts to. One we did not expect is 500 and says nothing."""
    if isinstance(error, Rejection):
        return error
    for kind, status, code in _STATUS_OF:
        if isinstance(error, kind):
            if isinstance(error, errors.Unavailable):
                retry_after = {"Retry-After": str(max(1, round(error.retry_after_s)))}
                return Rejection(status, code, str(error), retry_after, _outlook(error))
            return Rejection(status, code, str(error))
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


class Dialect(Protocol):
    """One HTTP contract. It gets a runtime and its settings and offers this; `mount` does the rest.

    routes            `web.get(path, handler)` and the like, paths from the root. Handlers may raise
                      anything in the table above: `refuse` gives it the dialect's shape
    health            its fields of `GET /health`; called for each request, so it must not block
    collect           its Prometheus metrics, read at each scrape
    metrics_document  the JSON form of `GET /metrics`, where the contract has one, else None
    refuse            an answer in the dialect's shape
    open, close       around the life of the app
    open_paths        its paths that are served without the token
    """

    name: str
    open_paths: frozenset[str]

    def routes(self) -> Sequence[web.RouteDef]: ...
    def health(self) -> Mapping[str, Any]: ...
    def collect(self) -> Iterable[Metric]: ...
    def metrics_document(self) -> Mapping[str, Any] | None: ...
    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


Refuse = Callable[[web.BaseRequest, Rejection], web.Response]


def guarded(handler: Handler, refuse: Refuse, token: str | None = None) -> Handler:
    """`handler` with its errors turned into answers and, with a `token`, asked for it first.

    Guarantees that nothing but an answer, a cancellation or a broken connection leaves it.
    """
    expected = None if token is None else token.encode()

    async def guard(request: web.Request) -> web.StreamResponse:
        try:
            if expected is not None:
                _check_token(request, expected)
            return await handler(request)
        except ConnectionError:  # nobody is left to answer
            raise
        except Exception as error:
            rejection = rejection_of(error)
            if rejection.status == 500 and not isinstance(error, Rejection):
                logger.exception("%s %s failed", request.method, request.path)
            if rejection.code in _NOT_DECODED and hdrs.CONTENT_ENCODING in request.headers:
                rejection = _compressed(request) or rejection
            return refuse(request, rejection)

    return guard


# Asked only once a body could not be decoded: the header costs a request that has none nothing.
_NOT_DECODED = frozenset({"malformed_body", "invalid_body", "invalid_config", "too_deep"})


def _compressed(request: web.BaseRequest) -> Rejection | None:
    encoding = request.headers[hdrs.CONTENT_ENCODING].strip().lower()
    if encoding in ("", "identity"):
        return None
    detail = f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is"
    return Rejection(415, "unsupported_content_encoding", detail, {"Accept-Encoding": "identity"})


def _check_token(request: web.BaseRequest, expected: bytes) -> None:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
    if scheme.lower() != "bearer" or not same:
        raise Rejection(
            401,
            "unauthorized",
            "this worker needs its token: `Authorization: Bearer ...`",
            {"WWW-Authenticate": 'Bearer realm="worker_runtime"'},
        )


# In


async def read_body(request: web.BaseRequest, bytes_max: int) -> bytes:
    """The whole body, chunked or not. Raises Rejection: 413 above `bytes_max`, 408 when it takes
    longer than `BODY_TIMEOUT_S` to arrive (aiohttp itself would wait for ever)."""
    content = request.content
    if content.is_eof():  # it has arrived with the headers, as small ones do
        body = content.read_nowait()
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while not content.at_eof():
                part = await content.readany()
                size += len(part)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                parts.append(part)
    except TimeoutError:
        detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise Rejection(408, "request_timeout", detail, {"Connection": "close"}) from None
    return b"".join(parts)


def _too_large(bytes_max: int) -> Rejection:
    detail = f"the body is larger than the {bytes_max} bytes allowed"
    return Rejection(413, "payload_too_large", detail, {"Connection": "close"})


def media_type(request: web.BaseRequest) -> str:
    """The Content-Type without parameters, in lower case. Raises Rejection (415) for a charset
    other than UTF-8."""
    header = request.headers.get(hdrs.CONTENT_TYPE, "")
    if header == JSON_TYPE:
        return JSON_TYPE
    kind, *parameters = header.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8", "us-ascii"):
            detail = f"charset {charset[:40]!r} is not supported, only utf-8"
            raise Rejection(415, "unsupported_media_type", detail)
    return kind.strip().lower()


def is_msgpack(request: web.BaseRequest) -> bool:
    """True for a MessagePack body, False for JSON. Raises Rejection (415) for any other type."""
    kind = media_type(request)
    if kind in _JSON_TYPES:
        return False
    if kind in _MSGPACK_TYPES:
        return True
    raise unsupported_type(kind, JSON_TYPE, MSGPACK_TYPE)


def unsupported_type(kind: str, *allowed: str) -> Rejection:
    given = f"Content-Type {kind[:80]!r} is not supported" if kind else "Content-Type is missing"
    headers = {"Accept": ", ".join(allowed)}
    detail = f"{given}; allowed: {', '.join(allowed)}"
    return Rejection(415, "unsupported_media_type", detail, headers)


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


# Out


def wants_msgpack(request: web.BaseRequest) -> bool:
    """Whether the Accept header prefers MessagePack to JSON. JSON wins a tie."""
    header = request.headers.get(hdrs.ACCEPT)
    if header is None or "msgpack" not in header:
        return False
    packed, json = _quality(header, _MSGPACK_TYPES), _quality(header, _JSON_TYPES)
    return packed > json


def _quality(header: str, kinds: frozenset[str]) -> float:
    """The weight that an Accept header gives the best of `kinds`; wildcards are worth nothing, as
    whoever names MessagePack next to `*/*` can read it."""
    best = 0.0
    for entry in header.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        if kind in kinds:
            weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            try:
                best = max(best, float(weight))
            except ValueError:
                best = max(best, 1.0)
    return best


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


PROBLEM_TYPE = "application/problem+json"


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


def problem(request: web.BaseRequest, rejection: Rejection) -> web.Response:
    """The native dialect's refusal, and that of everything outside of a dialect."""
    return web.Response(
        body=encode_json(problem_document(rejection)),
        status=rejection.status,
        headers=rejection.headers,
        content_type=PROBLEM_TYPE,
    )
