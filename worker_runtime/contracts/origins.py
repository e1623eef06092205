"""Whether a page of another origin has sent a request, as its browser says.

A browser sends some requests for any page that asks, with no question first: a form, a text, a GET.
It says whose they are in fields that no script can set: `Origin`
(https://fetch.spec.whatwg.org/#origin-header) and `Sec-Fetch-Site`
(https://www.w3.org/TR/fetch-metadata/). Programs send neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

ORIGIN_PATTERN = r"^[A-Za-z][A-Za-z0-9+.-]*://[!-\"$-.0->A-~]+/?$"
"""What the name of an origin looks like, in ASCII: a scheme, a host and where needed a port."""

ORIGIN = "Origin"
SEC_FETCH_SITE = "Sec-Fetch-Site"

# Methods that change nothing. What else there is counts as changing something.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_PORTS = {"http": ":80", "https": ":443"}
_OWN_SITE = frozenset({"", "same-origin", "none"})
_SHOWN_CHARS = 80


def spelled_alike(origins: Iterable[str]) -> frozenset[str]:
    """These names of origins as browsers spell them."""
    return frozenset(_spelled(origin.rstrip("/")) for origin in origins)


def foreign_page(headers: Mapping[str, str], named: Collection[str]) -> str | None:
    """Which other origin's page has sent a request with these header fields (found in any case of
    letters), in words; None where none has, or its origin is one of those `named` (as
    `spelled_alike` gives them)."""
    origin = headers.get(ORIGIN)
    if origin is not None:
        spelled = _spelled(origin)
        if spelled in named:
            return None
        scheme, _, authority = spelled.partition("://")
        host = headers.get("Host", "").lower()
        if not authority or authority != host.removesuffix(_PORTS.get(scheme, "")):
            return f"a page of origin {origin[:_SHOWN_CHARS]!r}"
    if headers.get(SEC_FETCH_SITE, "").strip().lower() not in _OWN_SITE:
        return "a page of another origin"
    return None


def _spelled(origin: str) -> str:
    scheme, _, authority = origin.strip().lower().partition("://")
    return f"{scheme}://{authority.removesuffix(_PORTS.get(scheme, ''))}"
