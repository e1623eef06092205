"""Which web pages of other origins may read an answer: any, in one of two manners.

The header fields are those of https://fetch.spec.whatwg.org/#http-cors-protocol; without one of
them a browser keeps the answer from its page.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import hdrs, web

ANY_ORIGIN: Mapping[str, str] = MappingProxyType({hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*"})


def with_credentials(request: web.BaseRequest) -> Mapping[str, str]:
    """Any origin, with credentials: a browser wants the origin named then, and caches know that the
    answer differs by it."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return ANY_ORIGIN
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS: "true",
        hdrs.VARY: "Origin",
    }


def preflight_headers(
    origin: Mapping[str, str], *, methods: str, headers: str, max_age_s: int | None = None
) -> dict[str, str]:
    """What a browser is told that asks before it sends: `origin` as on the answers themselves, the
    methods and header fields that a page may use, and for how long it need not ask again."""
    told = {
        **origin,
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: headers,
    }
    if max_age_s is not None:
        told[hdrs.ACCESS_CONTROL_MAX_AGE] = str(max_age_s)
    return told
