"""Who may ask: whom a request was meant for, which page sent it, and whether it has the token.

Two ways lead from anybody's web page to a worker that only this machine reaches. A browser sends
simple requests to wherever a page says: what changes something is refused where it tells of
another origin's page. And the name of a page may resolve to 127.0.0.1 a moment after it was loaded
(DNS rebinding), which makes the worker that page's own origin: its requests still have the name as
their Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable

from aiohttp import hdrs, web
from multidict import istr

from worker_runtime.contracts import origins
from worker_runtime.contracts.origins import SAFE_METHODS
from worker_runtime.settings import Settings
from worker_runtime.web.wire.rejection import Rejection

Check = Callable[[web.BaseRequest], None]
"""Raises Rejection for a request that may not be served."""

# As aiohttp's own names of fields are: found without being put into small letters first.
_SEC_FETCH_SITE = istr(origins.SEC_FETCH_SITE)

# So many Host fields are remembered as good: each port of each name is one of its own.
_KNOWN_MAX = 64
_SHOWN_CHARS = 80
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s/?#@]+)(:[0-9]*)?")


class Hosts:
    """The names and addresses that a worker goes by."""

    def __init__(self, names: Iterable[str], *, is_loopback: bool) -> None:
        self._names = frozenset(_bare(name) for name in names)
        self._is_loopback = is_loopback
        self.known: set[str] = set()
        """Fields that were good before, to ask before `check` does: that takes much longer."""

    def check(self, request: web.BaseRequest) -> None:
        """Raises Rejection (403) for a request that was meant for another host."""
        given = request.headers.get(hdrs.HOST)
        if given is None:
            return  # HTTP/1.0, which no browser speaks
        parts = _HOST.fullmatch(given)
        if parts is None or not self._has(_bare(parts[1])):
            also = "loopback names and " if self._is_loopback else ""
            raise Rejection(
                403,
                "foreign_host",
                f"the request is for host {given[:_SHOWN_CHARS]!r}, and this worker answers to "
                f"{also}what WORKER_HOSTS names",
            )
        if len(self.known) < _KNOWN_MAX:
            self.known.add(given)

    def _has(self, name: str) -> bool:
        return name in self._names or (self._is_loopback and _is_loopback(name))


class Access:
    """What a worker's settings say about who may ask.

    Where the server is our own (`listens`) the Host counts too; somebody else's application has
    hosts of its own.
    """

    def __init__(self, settings: Settings, *, listens: bool) -> None:
        self._token = None if settings.token is None else settings.token.encode()
        self._origins = origins.spelled_alike(settings.cors_origins)
        self._hosts = _hosts_of(settings) if listens else None

    def check_of(
        self, method: str, *, needs_host: bool = True, needs_token: bool = True
    ) -> Check | None:
        """What is asked of a request before a handler of this method sees it (`*`: of any method);
        None where that is nothing. No route can do without the question for the page: whether its
        method changes something decides."""
        hosts = self._hosts if needs_host else None
        known = set() if hosts is None else hosts.known
        token = self._token if needs_token else None
        changes = method not in SAFE_METHODS
        if hosts is None and token is None and not changes:
            return None

        def check(request: web.BaseRequest) -> None:
            headers = request.headers
            if hosts is not None and headers.get(hdrs.HOST) not in known:
                hosts.check(request)
            if changes and (hdrs.ORIGIN in headers or _SEC_FETCH_SITE in headers):
                self._check_page(request)
            if token is not None:
                _check_token(request, token)

        return check

    def _check_page(self, request: web.BaseRequest) -> None:
        if request.method in SAFE_METHODS:
            return
        page = origins.foreign_page(request.headers, self._origins)
        if page is not None:
            raise Rejection(
                403,
                "foreign_origin",
                f"{page} may change nothing here; WORKER_CORS_ORIGINS names the origins that may",
            )


def _hosts_of(settings: Settings) -> Hosts | None:
    """None: any host will do."""
    if settings.token is None and settings.is_loopback:
        return Hosts((settings.host, *settings.hosts), is_loopback=True)
    return Hosts(settings.hosts, is_loopback=False) if settings.hosts else None


def _bare(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


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
