"""What the headers say about a body: the format it is sent in, and the one that is wanted back."""

from __future__ import annotations

from aiohttp import hdrs, web

from worker_runtime.web.wire.rejection import Rejection

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"
_JSON_TYPES = frozenset({JSON_TYPE})
_MSGPACK_TYPES = frozenset({MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"})


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


def check_encoding(request: web.BaseRequest) -> None:
    """Raises Rejection (415) for a body with a Content-Encoding, or that says so."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is None or encoding.strip().lower() in ("", "identity"):
        return
    detail = f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is"
    raise Rejection(415, "unsupported_content_encoding", detail, {"Accept-Encoding": "identity"})


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
