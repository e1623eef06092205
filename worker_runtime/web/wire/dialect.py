"""What a dialect is, and what stands round its handlers: who may ask, and errors as answers.

What a refusal looks like in an answer is the dialect's own affair (`Dialect.refuse`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web
from prometheus_client import Metric

from worker_runtime.web.wire.access import Check
from worker_runtime.web.wire.cross_origin import ANY_ORIGIN
from worker_runtime.web.wire.rejection import Rejection, rejection_of

logger = logging.getLogger("worker_runtime.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refuse = Callable[[web.BaseRequest, Rejection], web.Response]


class Dialect(Protocol):
    """One HTTP contract. It gets a runtime and its settings and offers this; `app` does the rest.

    routes            `web.get(path, handler)` and the like, paths from the root. Handlers may raise
                      anything that `rejection_of` knows: `refuse` gives it the dialect's shape
    health            its fields of `GET /health`; called for each request, so it must not block
    collect           its Prometheus metrics, read at each scrape
    metrics_document  the JSON form of `GET /metrics`, where the contract has one, else None
    refuse            an answer in the dialect's shape
    cross_origin      where it is the first dialect: which other origins' pages may read the answers
                      at the paths that belong to no dialect, as header fields
    open, close       around the life of the app
    listening         the server listens there from now on
    open_paths        its paths that are served without the token and under any host, for probes

    `DialectDefaults` says what most of these are where a contract says nothing.
    """

    name: str
    open_paths: frozenset[str]

    def routes(self) -> Sequence[web.RouteDef]: ...
    def health(self) -> Mapping[str, Any]: ...
    def collect(self) -> Iterable[Metric]: ...
    def metrics_document(self) -> Mapping[str, Any] | None: ...
    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response: ...
    def cross_origin(self, request: web.BaseRequest) -> Mapping[str, str]: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def listening(self, url: str) -> None: ...


class DialectDefaults:
    """To inherit from: a dialect without metrics of its own, and with nothing to start or stop."""

    open_paths: frozenset[str] = frozenset()

    def collect(self) -> Iterable[Metric]:
        return ()

    def metrics_document(self) -> Mapping[str, Any] | None:
        return None

    def cross_origin(self, request: web.BaseRequest) -> Mapping[str, str]:
        """Any origin, without credentials."""
        return ANY_ORIGIN

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def listening(self, url: str) -> None:
        pass


def guarded(handler: Handler, refuse: Refuse, check: Check | None = None) -> Handler:
    """`handler` with its errors turned into answers and, before it, what `check` asks.

    Guarantees that nothing but an answer, a cancellation or a broken connection leaves it.
    """

    async def guard(request: web.Request) -> web.StreamResponse:
        try:
            if check is not None:
                check(request)
            return await handler(request)
        except ConnectionError:  # nobody is left to answer
            raise
        except Exception as error:
            rejection = rejection_of(error)
            if rejection.status == 500 and not isinstance(error, Rejection):
                logger.exception("%s %s failed", request.method, request.path)
            return refuse(request, rejection)

    return guard
