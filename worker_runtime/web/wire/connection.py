"""HTTP below the request: what a connection answers to bytes that are no request, or to one that
aiohttp itself turns away before a handler sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import InvalidURLError

from worker_runtime.web.wire.bodies.answers import problem
from worker_runtime.web.wire.dialect import Refuse
from worker_runtime.web.wire.rejection import Rejection, not_served, rejection_of

logger = logging.getLogger("worker_runtime.web")

# What one or another path has.
_METHODS = "DELETE, GET, HEAD, OPTIONS, POST, PUT"


class Runner(web.AppRunner):
    """An `AppRunner` whose connections answer everything with a problem document.

    Bodies are taken as they are sent: a small compressed one may unpack to gigabytes, and unpacking
    it would hold up the event loop, so that `Content-Encoding` is refused (415) instead.
    """

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, access_log=None, auto_decompress=False, **options)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            **self._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """400 for what is not HTTP, with the parser's reason and none of the client's bytes. It is
        not logged above DEBUG: anybody can send such bytes, as often as they like."""
        if isinstance(exc, ConnectionError):
            raise exc  # nobody is left to answer, and going away is no fault of ours
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        if status == 400:
            reason = _reason(exc, message or "")
            logger.debug("%s sent no HTTP request: %s", request.remote, reason)
            rejection = Rejection(400, "malformed_request", f"this is no HTTP request: {reason}")
        else:
            logger.error("a request could not be handled", exc_info=exc)
            rejection = rejection_of(exc or RuntimeError())
        answer = problem(request, rejection)
        answer.force_close()
        return answer

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send an answer; where no route took the request, ours instead of aiohttp's text."""
        if resp.status >= 400 and isinstance(resp, web.HTTPException):
            resp = _unrouted(request, resp)
        return super().finish_response(request, resp, start_time)


def _unrouted(request: web.BaseRequest, error: web.HTTPException) -> web.StreamResponse:
    """For a target without a path, which no route matches, and for paths that a server of little
    does not have."""
    if request.method == hdrs.METH_OPTIONS and request.path == "*":
        return web.Response(status=204, headers={hdrs.ALLOW: _METHODS})
    if request.method == hdrs.METH_CONNECT:
        detail = f"this is no proxy; allowed: {_METHODS}"
        rejection = Rejection(405, "method_not_allowed", detail, {"Allow": _METHODS})
        return problem(request, rejection)
    if error.status == 404:
        return problem(request, not_served(request))
    return problem(request, rejection_of(error))


def _reason(error: BaseException | None, message: str) -> str:
    """The parser's sentence without the bytes that it quotes after a colon."""
    if isinstance(error, InvalidURLError):
        return "its target is not a URL"
    sentence = message.partition("\n")[0].partition(":")[0].strip().rstrip(".")
    return sentence[:200] or "it is malformed"


def expecting(refuse: Refuse) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """What a route does about an `Expect` header: a client that asks first may go on and send."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get(hdrs.EXPECT, "").strip().lower() != "100-continue":
            detail = "only `Expect: 100-continue` is supported"
            return refuse(request, Rejection(417, "expectation_failed", detail))
        if request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # this was no part of the answer
        return None

    return expect
