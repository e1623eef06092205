"""Staying registered with a backend that is away, forgets, redirects, lies or floods."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tests.support.fleet_worker import serving
from tests.support.helpers import eventually, free_port
from worker_runtime import JobContext, task
from worker_runtime.clock.source import SYSTEM
from worker_runtime.contracts.domains import base_url
from worker_runtime.contracts.registration import CompletedOperation, Registration
from worker_runtime.web.operations.registrar import Registrar, RegistrarTimes

QUICK = RegistrarTimes(
    request_timeout_s=0.5,
    retry_first_s=0.01,
    retry_max_s=0.05,
    check_every_s=0.02,
    silence_max_s=0.04,
    shutdown_retry_s=0.02,
    shutdown_watch_s=0.2,
    farewell_s=1.0,
)
WORKER = Registration("worker-7", "backtesting", "http://127.0.0.1:1", {"cores": 2})

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Backend:
    """A backend's registry that answers as the test says."""

    def __init__(self) -> None:
        self.registrations: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.statuses: list[tuple[str, Any]] = []
        self.known: set[str] = set()
        self.reply: Reply | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.reply is not None:
            return await self.reply(request)
        if request.method == "POST" and request.path == "/api/v1/workers/register":
            body = await request.json()
            self.registrations.append(body)
            self.known.add(body["worker_id"])
            return web.json_response({"worker_id": body["worker_id"], "status": "available"})
        if request.method == "PATCH":
            self.statuses.append((request.path, await request.json()))
            return web.json_response({"success": True})
        name = request.path.removeprefix("/api/v1/workers/")
        if request.method == "GET" and name in self.known:
            return web.json_response({})
        return web.json_response({"detail": "not found"}, status=404)


@asynccontextmanager
async def backend(port: int = 0) -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def registering(
    url: str, current: str | None = None, times: RegistrarTimes = QUICK
) -> AsyncIterator[Registrar]:
    registrar = Registrar(url, SYSTEM, current=lambda: current, times=times)
    registrar.start(WORKER)
    try:
        yield registrar
    finally:
        await registrar.stop([], "the test is over")


async def test_it_registers_what_it_is() -> None:
    async with backend() as b, registering(f"{b.url}/api/v1/", current="op-1") as registrar:
        await eventually(lambda: registrar.is_registered)
        body = b.registrations[0]
    assert body == {
        "worker_id": "worker-7",
        "worker_type": "backtesting",
        "endpoint_url": "http://127.0.0.1:1",
        "capabilities": {"cores": 2},
        "current_operation_id": "op-1",
        "completed_operations": [],
    }
    assert b.asked[0] == "POST /api/v1/workers/register"
    assert b.asked[-1] == "DELETE /api/v1/workers/worker-7"


async def test_a_backend_that_is_down_is_tried_until_it_is_up() -> None:
    port = free_port()
    async with registering(f"http://127.0.0.1:{port}") as registrar:
        await asyncio.sleep(0.1)  # some tries that cannot succeed
        assert not registrar.is_registered
        async with backend(port) as b:
            await eventually(lambda: registrar.is_registered)
            assert len(b.registrations) == 1


async def _redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/elsewhere")


async def _garbage(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, body=b"\xff\x00garbage")


async def _megabyte(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"x" * (1 << 20))


async def _silence(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _stopping(request: web.Request) -> web.StreamResponse:
    document = {"detail": "Backend is shutting down - retry after restart"}
    return web.json_response(document, status=503, headers={"Retry-After": "5"})


@pytest.mark.parametrize("reply", [_redirect, _garbage, _megabyte, _silence, _stopping])
async def test_a_backend_that_misbehaves_is_tried_again(reply: Reply) -> None:
    times = msgspec.structs.replace(QUICK, request_timeout_s=0.05)
    async with backend() as b:
        b.reply = reply
        async with registering(b.url, times=times) as registrar:
            await eventually(lambda: len(b.asked) >= 3)
            assert not registrar.is_registered
            assert not any("elsewhere" in asked for asked in b.asked)
            b.reply = None
            await eventually(lambda: registrar.is_registered)


async def test_a_backend_that_forgot_is_reminded() -> None:
    async with backend() as b, registering(b.url) as registrar:
        await eventually(lambda: registrar.is_registered)
        b.known.clear()
        await eventually(lambda: len(b.registrations) == 2)
        asked = len(b.asked)
        await eventually(lambda: len(b.asked) > asked)
        assert len(b.registrations) == 2


async def test_it_does_not_ask_while_the_backend_asks_it() -> None:
    patient = msgspec.structs.replace(QUICK, silence_max_s=60.0)
    async with backend() as b, registering(b.url, times=patient) as registrar:
        await eventually(lambda: registrar.is_registered)
        registrar.heard()
        b.known.clear()
        await asyncio.sleep(5 * QUICK.check_every_s)
        assert b.asked == ["POST /api/v1/workers/register"]


async def test_it_asks_soon_when_nobody_has_asked_it_yet() -> None:
    """A backend that is restarted before its first health check has forgotten the worker."""
    patient = msgspec.structs.replace(QUICK, silence_max_s=60.0)
    async with backend() as b, registering(b.url, times=patient) as registrar:
        await eventually(lambda: registrar.is_registered)
        b.known.clear()
        await eventually(lambda: len(b.registrations) == 2)


async def test_health_checks_of_others_do_not_hide_that_the_backend_forgot() -> None:
    """A container's own health check asks for `/health` as often as the backend does."""
    patient = msgspec.structs.replace(QUICK, silence_max_s=60.0, ask_every_s=0.05)
    async with backend() as b, registering(b.url, times=patient) as registrar:
        await eventually(lambda: registrar.is_registered)
        b.known.clear()

        def reminded() -> bool:
            registrar.heard()
            return len(b.registrations) == 2

        await eventually(reminded)


async def test_a_refused_registration_says_why(caplog: pytest.LogCaptureFixture) -> None:
    types = "'backtesting', 'training', 'cpu_training', 'gpu_host', 'agent_design' or 'agent_...'"

    async def refuse(request: web.Request) -> web.StreamResponse:
        problem = {
            "type": "enum",
            "loc": ["body", "worker_type"],
            "msg": f"Input should be {types}",
            "input": "data_processing",
            "ctx": {"expected": types},
        }
        return web.json_response({"detail": [problem]}, status=422)

    async with backend() as b:
        b.reply = refuse
        with caplog.at_level(logging.WARNING, "worker_runtime.registrar"):
            async with registering(b.url):
                await eventually(lambda: len(b.asked) >= 3)
    assert 'answered 422: {"detail": [{"type": "enum"' in caplog.text
    assert '"input": "data_processing"' in caplog.text


async def test_a_name_may_need_quoting_in_a_path() -> None:
    identity = msgspec.structs.replace(WORKER, worker_id="rack 7/slot?")
    async with backend() as b:
        registrar = Registrar(b.url, SYSTEM, current=lambda: None, times=QUICK)
        registrar.start(identity)
        try:
            await eventually(lambda: len(b.asked) >= 3)
        finally:
            await registrar.stop([], "")
    assert len(b.registrations) == 1
    assert b.asked[-1] == "DELETE /api/v1/workers/rack 7/slot?"  # as the server decodes it


async def test_a_backend_that_announced_its_end_is_awaited() -> None:
    patient = msgspec.structs.replace(QUICK, silence_max_s=60.0)
    async with backend() as b, registering(b.url, times=patient) as registrar:
        await eventually(lambda: registrar.is_registered)
        b.reply = _stopping
        registrar.backend_stops()
        await eventually(lambda: len(b.asked) > 20)  # past the watch, into the usual retries
        b.reply = None
        await eventually(lambda: len(b.registrations) == 2)


ENDED_AT = datetime(2025, 11, 10, 10, 30, tzinfo=UTC)


def completion(name: str, result: dict[str, Any] | None) -> CompletedOperation:
    return CompletedOperation(
        operation_id=name, status="COMPLETED", result=result, completed_at=ENDED_AT
    )


def reported(name: str, result: dict[str, Any] | None) -> dict[str, Any]:
    """The same as it is on the wire."""
    return {
        "operation_id": name,
        "status": "COMPLETED",
        "result": result,
        "error_message": None,
        "completed_at": "2025-11-10T10:30:00Z",
    }


async def test_ended_operations_are_reported_once_and_within_bounds() -> None:
    failed = CompletedOperation(
        operation_id="failed", status="FAILED", error_message="e" * 8000, completed_at=ENDED_AT
    )
    async with backend() as b:
        registrar = Registrar(b.url, SYSTEM, current=lambda: None, times=QUICK)
        registrar.completed(completion("huge", {"x": "y" * 600_000}))
        registrar.completed(completion("older", {"x": "y" * 300_000}))
        registrar.completed(completion("newer", {"x": "y" * 300_000}))
        registrar.completed(failed)
        registrar.completed(completion("small", {"rows": 1}))
        registrar.start(WORKER)
        try:
            await eventually(lambda: registrar.is_registered)
            b.known.clear()
            await eventually(lambda: len(b.registrations) == 2)
        finally:
            await registrar.stop([], "")
    first, second = b.registrations
    assert first["completed_operations"] == [
        reported("huge", None),
        reported("older", None),
        reported("newer", {"x": "y" * 300_000}),
        {**reported("failed", None), "status": "FAILED", "error_message": "e" * 1000},
        reported("small", {"rows": 1}),
    ]
    assert second["completed_operations"] == []


@pytest.mark.parametrize("status", [422, 500])
async def test_a_report_that_the_backend_cannot_store_does_not_keep_the_worker_out(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    poison = completion("poison", {"text": "\x00"})
    async with backend() as b:

        async def refuse(request: web.Request) -> web.StreamResponse:
            if request.method == "POST" and (await request.json())["completed_operations"]:
                return web.json_response({"detail": "no NUL here"}, status=status)
            b.reply = None
            answer = await b.handle(request)
            b.reply = refuse
            return answer

        b.reply = refuse
        registrar = Registrar(b.url, SYSTEM, current=lambda: None, times=QUICK)
        registrar.completed(poison)
        registrar.start(WORKER)
        try:
            await eventually(lambda: registrar.is_registered)
            b.known.clear()
            await eventually(lambda: len(b.registrations) == 2)
        finally:
            await registrar.stop([], "")
    assert "took no reports of 1 ended operations" in caplog.text
    assert caplog.text.count("no NUL here") == 1


async def test_the_short_path_is_taken_where_the_long_one_is_not_found() -> None:
    async with backend() as b:

        async def short(request: web.Request) -> web.StreamResponse:
            status = 200 if request.path.startswith("/workers/") else 404
            return web.json_response({}, status=status)

        b.reply = short
        async with registering(b.url) as registrar:
            await eventually(lambda: registrar.is_registered)
            await eventually(lambda: len(b.asked) >= 5)
    assert b.asked[:4] == [
        "POST /api/v1/workers/register",
        "POST /workers/register",
        "GET /workers/worker-7",
        "GET /workers/worker-7",
    ]


@pytest.mark.parametrize(
    "given",
    ["http://b:8000", "http://b:8000/", "http://b:8000/api/v1", "http://b:8000/api/v1/"],
)
def test_the_api_prefix_may_be_in_the_url(given: str) -> None:
    assert base_url(given) == "http://b:8000"


# A whole worker


@task(domain="data-processing", run_in="thread")
def until_stopped(ctx: JobContext) -> None:
    done = 0
    while True:
        done += 1
        ctx.report(done)
        ctx.raise_if_cancelled()


@task(domain="quick-work")
async def quick(rows: int) -> dict[str, int]:
    return {"rows": rows}


async def test_a_worker_registers_works_and_says_goodbye() -> None:
    async with backend() as b:
        options: dict[str, Any] = {"name": "dp-1", "dialects": ("operations",)}
        async with serving(
            until_stopped, quick, registers=True, backend_url=b.url, stop_within_s=0.0, **options
        ) as worker:
            await eventually(lambda: bool(b.registrations))
            body = {"task_id": "short", "rows": 3}
            assert (await worker.ask("POST", "/quick-work/start", body)).status == 200
            await worker.runtime.join()
            await worker.ask("POST", "/data-processing/start", {"task_id": "long"})
            b.known.clear()
            await worker.ask("POST", "/backend-shutdown", {"message": "Backend shutting down"})
            await eventually(lambda: len(b.registrations) == 2)
            await worker.runtime.stop()
    first, again = b.registrations
    assert (first["worker_id"], first["worker_type"]) == ("dp-1", "data_processing")
    assert first["endpoint_url"].startswith("http://127.0.0.1:")
    assert not first["endpoint_url"].endswith("/")
    assert first["capabilities"]["cores"] >= 1
    assert first["capabilities"]["memory_gb"] > 0
    assert first["capabilities"]["domains"] == ["data-processing", "quick-work"]
    assert again["current_operation_id"] == "long"
    (completion,) = again["completed_operations"]
    assert completion["completed_at"].endswith("Z")
    assert (completion["operation_id"], completion["status"], completion["result"]) == (
        "short",
        "COMPLETED",
        {"rows": 3},
    )
    assert [path for path, _ in b.statuses] == ["/api/v1/operations/long/status"]
    assert b.statuses[0][1]["status"] == "CANCELLED"
    assert "Graceful shutdown" in b.statuses[0][1]["error_message"]
    assert b.asked[-1] == "DELETE /api/v1/workers/dp-1"


go_on = threading.Event()


@task(domain="data-processing", run_in="thread")
def until_told(ctx: JobContext) -> dict[str, int]:
    assert go_on.wait(10)
    return {"rows": 7}


async def test_what_ends_while_the_worker_stops_is_handed_in() -> None:
    """Nobody can ask a worker that is gone for the result."""
    go_on.clear()
    async with backend() as b:
        options: dict[str, Any] = {"name": "dp-1", "dialects": ("operations",)}
        async with serving(
            until_told, registers=True, backend_url=b.url, stop_within_s=10.0, **options
        ) as worker:
            await eventually(lambda: bool(b.registrations))
            await worker.ask("POST", "/data-processing/start", {"task_id": "late"})
            stopping = asyncio.ensure_future(worker.runtime.stop())
            await eventually(lambda: not worker.runtime.is_accepting)
            go_on.set()
            await stopping
    assert len(b.registrations) == 2
    assert b.registrations[1]["current_operation_id"] is None
    (completion,) = b.registrations[1]["completed_operations"]
    assert (completion["operation_id"], completion["status"], completion["result"]) == (
        "late",
        "COMPLETED",
        {"rows": 7},
    )
    assert b.statuses == []
    assert b.asked[-1] == "DELETE /api/v1/workers/dp-1"


async def test_a_worker_serves_while_its_backend_is_away() -> None:
    options: dict[str, Any] = {"dialects": ("operations",), "backend_url": "http://127.0.0.1:9"}
    async with serving(quick, registers=True, **options) as worker:
        answer = await worker.ask("POST", "/quick-work/start", {"rows": 1})
        assert answer.status == 200
        assert worker.runtime.settings.name.startswith("worker-worker-")
