"""Dialects on an application: what is served where, by whom and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.fleet_worker import serving
from worker_runtime import Runtime, Settings, task
from worker_runtime.contracts.guides import GUIDES
from worker_runtime.web import mount
from worker_runtime.web.app import DIALECTS
from worker_runtime.web.native.dialect import Native
from worker_runtime.web.wire.dialect import Dialect

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


# The paths that belong to all


@pytest.mark.parametrize(
    ("dialects", "word"),
    [
        (("sandbox", "vera", "operations"), "ok"),
        (("vera", "sandbox"), "healthy"),
        (("operations",), "operational"),
        ((), "ok"),
    ],
)
async def test_health_is_the_union_with_the_word_of_the_first_dialect(
    dialects: tuple[Any, ...], word: str
) -> None:
    async with serving(add, dialects=dialects) as worker:
        answer = await worker.ask("GET", "/health")
    assert (answer.status, answer.document["status"]) == (200, word)
    fields = {"sandbox": "currentLoad", "vera": "active_tasks", "operations": "worker_status"}
    for dialect, field in fields.items():
        assert (field in answer.document) is (dialect in dialects)


async def test_readiness_ends_when_the_runtime_takes_nothing_more() -> None:
    async with serving(add) as worker:
        assert (await worker.ask("GET", "/livez")).status == 200
        assert (await worker.ask("GET", "/readyz")).status == 200
        worker.runtime.quiet()
        assert (await worker.ask("GET", "/livez")).status == 200
        assert (await worker.ask("GET", "/readyz")).status == 503


async def test_metrics_are_text_unless_json_is_asked_for_or_first() -> None:
    async with serving(add, dialects=("sandbox", "vera")) as worker:
        plain = await worker.ask("GET", "/metrics")
        assert "worker_runtime_jobs_accepted_total" in plain.text
        asked = await worker.ask("GET", "/metrics", headers={"Accept": "application/json"})
        assert "tasks_completed" in asked.document
    async with serving(add, dialects=("vera", "sandbox")) as worker:
        assert "tasks_completed" in (await worker.ask("GET", "/metrics")).document
        text = (await worker.ask("GET", "/metrics/prometheus")).text
        assert "worker_requests_total" in text
    async with serving(add, dialects=("sandbox",)) as worker:  # nobody here has a JSON form
        answer = await worker.ask("GET", "/metrics", headers={"Accept": "application/json"})
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_a_dialect_that_is_not_enabled_is_not_served() -> None:
    async with serving(add, dialects=("vera",)) as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
        assert (answer.status, answer.document["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nope", "/%00", "/" + "a" * 3000, "/ü", "//task"])
async def test_what_is_not_there_is_a_problem_document(path: str) -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        answer = await worker.ask("GET", path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answer.text) < 1000


async def test_a_wrong_method_names_those_allowed_and_options_asks_for_them() -> None:
    async with serving(add) as worker:
        answer = await worker.ask("PATCH", "/v1/jobs")
        assert (answer.status, answer.document["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "DELETE, GET, HEAD, POST"
        asked = await worker.ask("OPTIONS", "/v1/jobs/x")
        assert (asked.status, asked.headers["Allow"]) == (204, "DELETE, GET, HEAD, OPTIONS")
        head = await worker.ask("HEAD", "/v1/queues")
        assert (head.status, head.text) == (200, "")
        odd = await worker.ask("PROPFIND", "/v1/jobs")
        assert odd.status == 405


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
