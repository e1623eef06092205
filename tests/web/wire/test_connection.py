"""HTTP byte by byte: what is no request, or one that never ends, is answered and harms nobody."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging

import aiohttp
import pytest
from aiohttp import web

from tests.support.applications import running
from tests.support.fleet_worker import Worker, serving
from worker_runtime import Runtime, Settings, task
from worker_runtime.web import build_app, mount
from worker_runtime.web.wire.connection import Runner


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@task(name="task")
async def echo(id: str, weight: float) -> str:
    return id


async def exchange(worker: Worker, sent: bytes, *, ends: bool = False) -> bytes:
    """What the server answers to these bytes until it closes the connection; `ends`: after them
    the client closes its side."""
    host, _, port = worker.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        if ends:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /task HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /task HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n",
        b"POST /task HTTP/1.1\r\nHost: localhost\r\n bad: header\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET http://[aaaa/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /aaaa HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
        b"GET /aaaa HTTP/1.1\nHost: localhost\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_malformed_http_is_a_problem_and_the_server_lives(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        received = await exchange(worker, sent)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"application/problem+json" in head
        problem = json.loads(body)
        assert (problem["status"], problem["code"]) == (400, "malformed_request")
        assert 0 < len(problem["detail"]) < 200
        assert "aaaa" not in problem["detail"]  # nothing of what was sent
        assert "b'" not in problem["detail"]
        assert (await worker.ask("GET", "/health")).status == 200
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG]


async def test_a_connection_that_turns_malformed_is_answered_and_closed() -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        host, _, port = worker.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"alive\n")).startswith(b"HTTP/1.1 200 OK")
        writer.write(b"GARBAGE\r\n\r\n")
        received = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
    assert b" 400 Bad Request" in received
    assert received.endswith(b'"code":"malformed_request"}')


async def test_a_body_that_ends_early_is_no_job() -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        sent = b'POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"id":"a"}'
        received = await exchange(worker, sent, ends=True)
        assert not received.startswith(b"HTTP/1.1 5")
        assert not (await worker.runtime.list_jobs()).jobs
        assert (await worker.ask("GET", "/health")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"POST /task HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n{",
    ],
)
async def test_a_client_that_goes_away_is_no_error(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        host, _, port = worker.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        await worker.ask("GET", "/livez")  # by now the body is waited for
        writer.transport.abort()
        await worker.ask("GET", "/livez")
        assert not (await worker.runtime.list_jobs()).jobs
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG]


async def test_a_body_that_never_comes_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_runtime.web.wire.bodies.reading.BODY_TIMEOUT_S", 0.05)
    async with serving(add, dialects=("sandbox",)) as worker:
        host, _, port = worker.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b'POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"id":"a"'
        )
        received = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in received
        writer.close()
        await writer.wait_closed()


async def test_a_body_without_end_is_413_as_soon_as_it_is_too_large() -> None:
    async with serving(add, dialects=("sandbox",), payload_bytes_max=1000) as worker:
        host, _, port = worker.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /task HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            writer.write(b"200\r\n" + b"x" * 0x200 + b"\r\n")
            await writer.drain()
        received = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b"1000 bytes" in received
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_a_request_whose_headers_never_end_is_cut_off(sent: bytes) -> None:
    async with Runtime([add], settings=Settings()) as runtime:
        runner = Runner(build_app(runtime), keepalive_timeout=0.1, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            await writer.wait_closed()
        finally:
            await runner.cleanup()


async def test_requests_in_one_packet_are_answered_in_order() -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
        received = await exchange(
            worker, (head + b"\r\n") * 5 + head + b"Connection: close\r\n\r\n"
        )
        assert received.count(b"HTTP/1.1 200 OK") == 6


# Turned away before a handler


@pytest.mark.parametrize(
    ("method", "path", "kind", "field"),
    [
        ("POST", "/v1/jobs", "application/problem+json", "detail"),
        ("POST", "/task", "application/json", "error"),
        ("GET", "/health", "application/json", "error"),
        ("POST", "/nope", "application/problem+json", "detail"),
    ],
)
async def test_an_expectation_that_is_not_known_is_417(
    method: str, path: str, kind: str, field: str
) -> None:
    async with serving(echo, dialects=("sandbox",)) as worker:
        headers = {"Expect": "<script>", "Content-Type": "application/json"}
        answer = await worker.ask(method, path, data=b"{}", headers=headers)
    assert (answer.status, answer.headers["Content-Type"]) == (417, kind)
    assert "100-continue" in answer.document[field]
    assert "script" not in answer.text


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    async with serving(echo, dialects=("sandbox",)) as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"}, expect100=True)
    assert (answer.status, answer.document["id"]) == (200, "a")


COMPRESSED = ["gzip", "deflate", "br", "zstd", "x-unknown", "GZIP", "identity,gzip"]
BOMB = gzip.compress(b" " * 50_000_000)
WITH_BODY = {
    "/v1/jobs": b'{"task":"task","kwargs":{"id":"a","weight":1}}',
    "/v1/jobs/batch": b'[{"task":"task","kwargs":{"id":"a","weight":1}}]',
    "/task": b'{"id":"a"}',
    "/config": b'{"queue_size":5}',
    "/task/submit": b'{"payload":{"function":"task","kwargs":{"id":"a","weight":1}}}',
    "/execute": b'{"type":"task","payload":{"id":"a","weight":1}}',
    "/submit": b'{"name":"task","payload":{"id":"a","weight":1}}',
    "/echoes/start": b'{"text":"a"}',
    "/echoes/resume": b'{"operation_id":"a"}',
}


@task(domain="echoes")
async def echoes(text: str) -> str:
    return text


@pytest.mark.parametrize("encoding", COMPRESSED)
@pytest.mark.parametrize("path", WITH_BODY)
async def test_a_body_that_is_said_to_be_compressed_is_415_whatever_it_is(
    path: str, encoding: str
) -> None:
    """B32h: one that was none was taken."""
    async with serving(echo, echoes) as worker:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        for data in (BOMB, WITH_BODY[path], b"{", b""):
            answer = await worker.ask("POST", path, data=data, headers=headers)
            assert answer.status == 415
            assert "Content-Encoding" in answer.text
            assert answer.headers["Accept-Encoding"] == "identity"
        assert not (await worker.runtime.list_jobs()).jobs


async def test_a_compressed_body_is_415_inside_an_application_too() -> None:
    app = web.Application()
    mount(app, Runtime([echo], settings=Settings()), manage=True)
    async with running(app) as url, aiohttp.ClientSession() as http:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        data = gzip.compress(WITH_BODY["/v1/jobs"])
        async with http.post(f"{url}/v1/jobs", data=data, headers=headers) as answer:
            assert answer.status == 415


# Targets that no route matches


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        ("CONNECT a.example:80", 405, "method_not_allowed"),
        ("CONNECT localhost:80", 405, "method_not_allowed"),
        ("GET http://localhost", 404, "not_found"),
        ("GET /a%0ab", 404, "not_found"),
        ("POST /%0A", 404, "not_found"),
        ("GET /v1/%0a", 404, "not_found"),
        ("OPTIONS /a%0ab", 404, "not_found"),
    ],
)
async def test_what_no_route_matches_is_a_problem_document(
    request_line: str, status: int, code: str
) -> None:
    """B32e: aiohttp answered these with a text of its own."""
    async with serving(add, dialects=("sandbox",)) as worker:
        sent = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        head, _, body = (await exchange(worker, sent.encode())).partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"\r\nContent-Type: application/problem+json\r\n" in head
        assert json.loads(body)["code"] == code
        assert (b"\r\nAllow: " in head) is (status == 405)


async def test_options_of_the_server_as_a_whole_are_its_methods() -> None:
    """B32e"""
    async with serving(add) as worker:
        sent = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        received = await exchange(worker, sent)
        routes = build_app(worker.runtime).router.routes()
    assert received.startswith(b"HTTP/1.1 204 ")
    methods = ", ".join(sorted({route.method for route in routes} - {"*"}))
    assert f"\r\nAllow: {methods}\r\n".encode() in received


async def test_a_body_that_says_it_is_plain_is_taken() -> None:
    async with serving(echo, dialects=("sandbox",)) as worker:
        headers = {"Content-Encoding": "identity"}
        answer = await worker.ask("POST", "/task", data=b'{"id":"a"}', headers=headers)
        assert answer.status == 200
        answer = await worker.ask("POST", "/task", data=b"{", headers=headers)
        assert answer.status == 400
