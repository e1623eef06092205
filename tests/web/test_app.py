"""Dialects on an application: what is served where, by whom and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from tests.support.fleet_worker import serving
from worker_runtime import Runtime, Settings, UnknownTask, task
from worker_runtime.contracts.guides import GUIDES
from worker_runtime.web import build_app, mount
from worker_runtime.web.app import DIALECTS, tell_listening
from worker_runtime.web.native.dialect import Native
from worker_runtime.web.wire.dialect import Dialect, DialectDefaults
from worker_runtime.web.wire.rejection import Rejection

TOKEN = "s3cret-ü"


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


# Embedding


async def test_mount_serves_the_native_api_under_the_prefix_and_starts_the_runtime() -> None:
    runtime = Runtime([add], settings=Settings())
    app = web.Application()

    async def own(request: web.Request) -> web.Response:
        return web.Response(text="own")

    app.router.add_get("/jobs/own", own)
    mount(app, runtime, prefix="/work", manage=True)
    async with served(app) as url, aiohttp.ClientSession() as http:
        assert runtime.is_accepting
        body = {"task": "add", "args": [1]}
        async with http.post(f"{url}/work/jobs?wait_s=5", json=body) as answer:
            document = await answer.json()
            assert (answer.status, document["result"]) == (200, 3)
        async with http.post(f"{url}/work/jobs", json=body) as answer:
            location = answer.headers["Location"]
            assert location.startswith("/work/jobs/")
        async with http.get(f"{url}{location}?wait_s=5") as answer:
            assert (await answer.json())["state"] == "completed"
        async with http.post(f"{url}/work/jobs", data=b"{") as answer:
            assert answer.headers["Content-Type"] == "application/problem+json"
        async with http.get(f"{url}/jobs/own") as answer:
            assert await answer.text() == "own"
    assert not runtime.is_accepting


async def test_an_embedded_api_needs_nothing_of_its_host_and_hides_its_own_faults(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @web.middleware
    async def hostile(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        return response

    async def broken(self: Native, request: web.Request) -> web.Response:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Native, "_queues", broken)
    runtime = Runtime([add], settings=Settings())
    app = web.Application(middlewares=[hostile])
    mount(app, runtime, prefix="", manage=True)
    async with (
        served(app) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/queues") as answer,
    ):
        assert answer.status == 500
        assert "secret" not in await answer.text()
        assert (await answer.json(content_type=None))["code"] == "internal_error"
    assert "a secret" in caplog.text


@pytest.mark.parametrize("prefix", ["jobs", "/jobs/", "/"])
async def test_a_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix must be a path"):
        mount(web.Application(), Runtime([add], settings=Settings()), prefix=prefix)


def test_every_dialect_that_can_be_enabled_has_its_class() -> None:
    assert tuple(DIALECTS) == tuple(GUIDES)


def test_every_dialect_offers_what_the_protocol_asks() -> None:
    runtime = Runtime([add], settings=Settings())
    dialect: Dialect = Native(runtime, runtime.settings, prefix="/v1")
    assert dialect.routes()


async def test_a_new_dialect_needs_its_class_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached_at: list[str] = []

    class Greeting(DialectDefaults):
        name = "greeting"

        def __init__(self, runtime: Runtime, settings: Settings) -> None: ...

        def routes(self) -> Sequence[web.RouteDef]:
            return [web.get("/hello", self._greet)]

        async def _greet(self, request: web.Request) -> web.Response:
            raise UnknownTask("nobody greets")

        def health(self) -> Mapping[str, Any]:
            return {"status": "friendly"}

        def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
            return web.Response(text=f"sorry, {rejection.detail}", status=rejection.status)

        def cross_origin(self, request: web.BaseRequest) -> Mapping[str, str]:
            return {"Access-Control-Allow-Origin": "http://friend.example"}

        def listening(self, url: str) -> None:
            reached_at.append(url)

    monkeypatch.setitem(DIALECTS, "greeting", Greeting)
    runtime = Runtime([add], settings=Settings())
    wanted: Any = ("greeting", "operations")
    app = build_app(runtime, msgspec.structs.replace(runtime.settings, dialects=wanted))
    tell_listening(app, "http://here")
    async with served(app) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/hello") as answer:
            assert (answer.status, await answer.text()) == (404, "sorry, nobody greets")
        async with http.get(f"{url}/health") as answer:
            assert (await answer.json())["status"] == "friendly"
            assert answer.headers["Access-Control-Allow-Origin"] == "http://friend.example"
        async with http.get(f"{url}/metrics/prometheus") as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "http://friend.example"
        async with http.delete(f"{url}/hello") as answer:
            assert (answer.status, (await answer.text())[:6]) == (405, "sorry,")
    assert reached_at == ["http://here"]


# The token


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
async def test_without_the_token_nothing_but_the_probes_is_served(header: str | None) -> None:
    async with serving(add, token=TOKEN) as worker:
        headers = {} if header is None else {"Authorization": header}
        for method, path in (
            ("POST", "/v1/jobs"),
            ("GET", "/v1/queues"),
            ("POST", "/task"),
            ("GET", "/config"),
            ("GET", "/metrics"),
            ("GET", "/nope"),
            ("DELETE", "/task"),
        ):
            answer = await worker.ask(method, path, headers=headers)
            assert answer.status == 401, path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert TOKEN not in answer.text
        for path in ("/livez", "/readyz", "/health"):
            assert (await worker.ask("GET", path, headers=headers)).status == 200
        assert not (await worker.runtime.list_jobs()).jobs


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_with_the_token_all_is_served(scheme: str) -> None:
    async with serving(add, token=TOKEN) as worker:
        headers = {"Authorization": f"{scheme} {TOKEN}"}
        body = {"task": "add", "args": [1]}
        answer = await worker.ask("POST", "/v1/jobs?wait_s=5", body, headers=headers)
        assert answer.document["result"] == 3
        assert (await worker.ask("OPTIONS", "/task")).status == 200  # a preflight carries none
