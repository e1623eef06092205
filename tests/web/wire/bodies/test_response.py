"""Responses written in one piece: the same bytes as aiohttp's own, whatever is asked and added."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.clocks import StillClock
from worker_runtime.web.wire.bodies.response import TAIL, FixedHeaders, Tail

HEADERS = {"Content-Type": "application/json", "Access-Control-Allow-Origin": "*"}
BODY = b'{"n": 1}'
FIXED = FixedHeaders(HEADERS)
CLOCK = StillClock(1_000_000_000.0)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def ours(request: web.Request) -> web.Response:
    return FIXED.respond(BODY, int(request.query.get("status", "200")))


async def aiohttps(request: web.Request) -> web.Response:
    status = int(request.query.get("status", "200"))
    return web.Response(body=BODY, status=status, headers=HEADERS)


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[int]:
    app[TAIL] = Tail(CLOCK)
    app.router.add_route("*", "/ours", ours)
    app.router.add_route("*", "/aiohttps", aiohttps)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def answer_to(port: int, request: str, path: str) -> bytes:
    """All that comes back until the server closes, after a second request where the first one keeps
    the connection; dates are left out, as they may differ."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if not request.endswith(CLOSING):
        request += LAST
    try:
        writer.write(request.format(path=path).replace("\n", "\r\n").encode())
        received = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()
    return re.sub(rb"Date: [^\r]*", b"Date: ?", received)


LAST = "GET {path} HTTP/1.1\nHost: a\nConnection: close\n\n"
CLOSING = ("Connection: close\n\n", "HTTP/1.0\nHost: a\n\n")
REQUESTS = [
    "GET {path} HTTP/1.1\nHost: a\n\n",
    "GET {path}?status=202 HTTP/1.1\nHost: a\n\n",
    "GET {path}?status=503 HTTP/1.1\nHost: a\n\n",
    "HEAD {path} HTTP/1.1\nHost: a\n\n",
    "POST {path} HTTP/1.1\nHost: a\nContent-Length: 2\n\n{{}}",
    "GET {path} HTTP/1.1\nHost: a\nConnection: close\n\n",
    "GET {path} HTTP/1.0\nHost: a\n\n",
    "GET {path} HTTP/1.0\nHost: a\nConnection: keep-alive\n\n",
]


@pytest.mark.parametrize("request_text", REQUESTS)
async def test_the_bytes_are_those_that_aiohttp_writes(request_text: str) -> None:
    async with served(web.Application()) as port:
        expected = await answer_to(port, request_text, "/aiohttps")
        assert re.match(rb"HTTP/1.[01] (200|202|503) ", expected)
        assert await answer_to(port, request_text, "/ours") == expected


async def test_the_date_is_that_of_the_applications_clock() -> None:
    async with served(web.Application()) as port, aiohttp.ClientSession() as session:
        dates = []
        for CLOCK.at in (1_000_000_000.0, 1_000_000_000.9, 1_000_000_001.0):
            async with session.get(f"http://127.0.0.1:{port}/ours") as response:
                dates.append(response.headers["Date"])
    first = "Sun, 09 Sep 2001 01:46:40 GMT"
    assert dates == [first, first, first.replace(":40", ":41")]


async def test_without_a_clock_of_the_application_it_goes_aiohttps_way() -> None:
    async with served(web.Application()) as port:
        expected = await answer_to(port, REQUESTS[0], "/ours")
    app = web.Application()
    app.router.add_get("/inner", ours)
    outer = web.Application()
    outer.add_subapp("/below", app)
    async with served(outer) as port:
        assert await answer_to(port, REQUESTS[0], "/below/inner") == expected


@web.middleware
async def adds_a_header(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers["X-Added"] = "by a middleware"
    return response


@web.middleware
async def adds_a_cookie(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.set_cookie("session", "1")
    return response


@web.middleware
async def compresses(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.enable_compression(web.ContentCoding.deflate)
    return response


@web.middleware
async def changes_the_type(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.content_type = "text/plain"
    return response


@web.middleware
async def closes(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.force_close()
    return response


@web.middleware
async def replaces_what_is_sent(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    assert isinstance(response, web.Response)
    response.body = b"another"
    response.set_status(201)
    return response


@web.middleware
async def prepares(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    await response.prepare(request)
    return response


@web.middleware
async def writes(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    await response.prepare(request)
    await response.write_eof()
    return response


@web.middleware
async def only_looks(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    assert isinstance(response, web.Response)
    assert (response.status, response.body) == (200, BODY)
    assert response.content_type == "application/json"
    assert not response.prepared
    return response


MIDDLEWARES: Sequence[Any] = [
    adds_a_header,
    adds_a_cookie,
    compresses,
    changes_the_type,
    closes,
    replaces_what_is_sent,
    prepares,
    writes,
    only_looks,
]


@pytest.mark.parametrize("middleware", MIDDLEWARES)
async def test_what_a_middleware_does_to_it_is_done(middleware: Any) -> None:
    async with served(web.Application(middlewares=[middleware])) as port:
        expected = await answer_to(port, REQUESTS[0], "/aiohttps")
        assert re.match(rb"HTTP/1.1 20[01] ", expected)
        assert await answer_to(port, REQUESTS[0], "/ours") == expected
        # What one response was given, the next does not have.
        assert await answer_to(port, REQUESTS[0], "/ours") == expected


async def test_a_signal_of_the_application_sees_it_before_it_is_sent() -> None:
    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = response.headers["Content-Length"]

    app = web.Application()
    app.on_response_prepare.append(sign)
    async with served(app) as port:
        received = await answer_to(port, REQUESTS[0], "/ours")
        assert b"X-Signed: 8\r\n" in received
        assert received == await answer_to(port, REQUESTS[0], "/aiohttps")


async def test_a_client_that_does_not_read_its_answers_does_not_fill_the_memory() -> None:
    count, size = 500, 32 << 10
    buffered: list[int] = []

    async def large(request: web.Request) -> web.Response:
        assert request.transport is not None
        buffered.append(request.transport.get_write_buffer_size())
        return FIXED.respond(b"x" * size)

    app = web.Application()
    app.router.add_get("/large", large)
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        try:
            writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * count)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(20 * count):  # turns of the loop, in which all could be answered
                await asyncio.sleep(0)
            assert 0 < len(buffered) < count
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            received = 0
            while received < count * size:
                received += len(await asyncio.wait_for(reader.read(1 << 20), 10))
            assert len(buffered) == count
            assert max(buffered) <= 4 * size
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0b"])
def test_a_header_that_is_two_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        FixedHeaders({"X-Name": value})
