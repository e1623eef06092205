"""A fleet's front before real workers, and before workers that lie, hang or vanish."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from tests.support.applications import running, stand_in
from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import eventually, free_port
from worker_runtime import JobContext, task
from worker_runtime.contracts.registration import CompletedOperation, Registration
from worker_runtime.fleet import Fleet, FleetError, FleetSettings
from worker_runtime.fleet.members import Load, Status
from worker_runtime.fleet.routes import mount

QUICK = FleetSettings(check_every_s=0.05, check_timeout_s=0.5, request_timeout_s=2.0)
go_on = threading.Event()


@task(domain="data-processing", run_in="thread")
def process(ctx: JobContext, rows: int) -> dict[str, int]:
    ctx.report(1, 2, step="half")
    ctx.record_metric("rows", rows)
    while not go_on.wait(0.01):
        ctx.raise_if_cancelled()
    return {"rows": rows}


@pytest.fixture(autouse=True)
def _waiting() -> Iterator[None]:
    go_on.clear()
    yield
    go_on.set()


async def test_a_page_of_another_origin_changes_nothing_at_a_front() -> None:
    """B5"""
    app = web.Application()
    async with Fleet(settings=QUICK) as fleet:
        mount(app, fleet, manage=False, cors_origins=["https://ui.example"])
        changing = [
            (route.method, route.resource.canonical.replace("{", "").replace("}", ""))
            for route in app.router.routes()
            if route.resource is not None and route.method not in ("GET", "HEAD")
        ]
        assert ("POST", "/workers/register") in changing
        async with running(app) as url, aiohttp.ClientSession() as http:
            for method, path in changing:
                statuses = {}
                for headers in (
                    {},
                    {"Origin": "https://page.example"},
                    {"Origin": "null"},
                    {"Sec-Fetch-Site": "cross-site"},
                    {"Origin": "https://ui.example", "Sec-Fetch-Site": "cross-site"},
                    {"Origin": url},
                ):
                    body = msgspec.json.encode(registration("w", "http://127.0.0.1:1"))
                    async with http.request(
                        method, f"{url}{path}", data=body, headers=headers
                    ) as answer:
                        statuses[headers.get("Origin", headers.get("Sec-Fetch-Site"))] = (
                            answer.status
                        )
                allowed = {statuses.pop(origin) for origin in (None, "https://ui.example", url)}
                assert 403 not in allowed
                assert set(statuses.values()) == {403}, path
            async with http.get(
                f"{url}/api/v1/workers", headers={"Origin": "https://page.example"}
            ) as answer:
                assert answer.status == 200


def registration(worker_id: str, url: str, **fields: Any) -> Registration:
    return Registration(worker_id, "data_processing", url, **fields)


@asynccontextmanager
async def fleet_of(count: int, **settings: Any) -> AsyncIterator[tuple[Fleet, list[Worker]]]:
    """A fleet and `count` registered workers."""
    async with AsyncExitStack() as stack:
        fleet = Fleet(settings=msgspec.structs.replace(QUICK, **settings))
        await stack.enter_async_context(fleet)
        workers = [
            await stack.enter_async_context(
                serving(process, name=f"w{n}", dialects=("vera", "operations"), stop_within_s=0.0)
            )
            for n in range(count)
        ]
        for n, worker in enumerate(workers):
            fleet.register(registration(f"w{n}", worker.url))
        yield fleet, workers


# Registry


async def test_registration_takes_in_and_takes_up_again() -> None:
    fleet = Fleet()
    first = fleet.register(registration("a", "http://h:1/", capabilities={"cores": 8}))
    assert first.document()["endpoint_url"] == "http://h:1"
    assert first.document()["status"] == "AVAILABLE"
    first.status = Status.TEMPORARILY_UNAVAILABLE
    first.failures = 5
    again = fleet.register(registration("a", "http://h:2"))
    assert again is first
    assert (again.url, again.status, again.failures) == ("http://h:2", Status.AVAILABLE, 0)
    other = fleet.register(registration("b", "http://h:2"))
    assert [member.id for member in fleet.members] == [other.id]


BAD_REGISTRATIONS: list[dict[str, Any]] = [
    {},
    {"worker_id": "a"},
    {"worker_id": "a b", "worker_type": "t", "endpoint_url": "http://h"},
    {"worker_id": "a", "worker_type": "t", "endpoint_url": "ftp://h"},
    {"worker_id": "a", "worker_type": "t", "endpoint_url": "http://user@h"},
    {"worker_id": "a", "worker_type": "t", "endpoint_url": "http://h?x=1"},
    {"worker_id": "a", "worker_type": "t", "endpoint_url": "http://h", "capabilities": []},
    {
        "worker_id": "a",
        "worker_type": "t",
        "endpoint_url": "http://h",
        "completed_operations": [
            {"operation_id": "o", "status": "completed", "completed_at": "2025-01-01T00:00:00Z"}
        ],
    },
]


async def test_the_mounted_routes() -> None:
    fleet = Fleet(settings=QUICK)
    app = web.Application()
    mount(app, fleet)
    async with (
        running(app) as url,
        serving(process, name="w", dialects=("operations",), cancel_grace_s=0.5) as worker,
    ):
        backend = Worker(worker.runtime, url, worker.http)
        body = {"worker_id": "w", "worker_type": "data_processing", "endpoint_url": worker.url}
        for path in ("/workers/register", "/api/v1/workers/register"):
            assert (await backend.ask("POST", path, body)).status == 200
        for bad in BAD_REGISTRATIONS:
            assert (await backend.ask("POST", "/workers/register", bad)).status == 422, bad
        broken = await backend.ask("POST", "/workers/register", data=b"{")
        large = await backend.ask("POST", "/workers/register", data=io.BytesIO(b" " * (3 << 20)))
        assert (broken.status, large.status) == (400, 413)

        listed = (await backend.ask("GET", "/api/v1/workers")).document
        assert [w["worker_id"] for w in listed] == ["w"]
        for query, count in (
            ("worker_type=data_processing", 1),
            ("worker_type=training", 0),
            ("status=available", 1),
            ("status=nonsense", 0),
        ):
            found = (await backend.ask("GET", f"/api/v1/workers?{query}")).document
            assert len(found) == count, query
        assert (await backend.ask("GET", "/api/v1/workers/w")).document["worker_id"] == "w"
        assert (await backend.ask("GET", "/api/v1/workers/nobody")).status == 404

        start = {"task_id": "op-1", "rows": 5}
        started = await backend.ask("POST", "/api/v1/data-processing/start", start)
        assert started.document["operation_id"] == "op-1"
        busy = await backend.ask("POST", "/api/v1/data-processing/start", {"rows": 1})
        assert (busy.status, busy.headers["Retry-After"]) == (503, "5")
        path = "/api/v1/operations/op-1"
        shown = (await backend.ask("GET", f"{path}?force_refresh=true")).document["data"]
        assert shown["status"] in ("pending", "running")
        wrong = await backend.ask("GET", f"{path}/metrics?cursor=x")
        assert wrong.status == 422
        metrics = (await backend.ask("GET", f"{path}/metrics?cursor=0")).document["data"]
        assert [m["value"] for m in metrics["metrics"]] in ([], [5.0])
        cancelled = await backend.ask("DELETE", f"{path}/cancel?reason=enough%20%26%20more")
        assert cancelled.document["data"]["cancellation_reason"] == "enough & more"
        shown = (await backend.ask("GET", path)).document["data"]
        assert (shown["status"], shown["error_message"]) == ("cancelled", "enough & more")
        assert (await backend.ask("GET", "/api/v1/operations/nobody")).status == 404
        ended = {"status": "CANCELLED", "error_message": "its worker stopped"}
        path = "/api/v1/operations/gone"
        assert (await backend.ask("PATCH", f"{path}/status", {"status": "odd"})).status == 422
        assert (await backend.ask("PATCH", f"{path}/status", ended)).status == 200
        assert (await backend.ask("GET", path)).document["data"]["status"] == "cancelled"
        assert (await backend.ask("DELETE", "/api/v1/workers/w")).status == 200
        assert (await backend.ask("DELETE", "/api/v1/workers/w")).status == 404
    with pytest.raises(FleetError, match="shutting down"):
        fleet.register(registration("late", "http://h"))


async def test_what_ended_meanwhile_is_told_once_and_remembered() -> None:
    told: list[CompletedOperation] = []
    completion = CompletedOperation(
        operation_id="op-9",
        status="FAILED",
        error_message="disk",
        completed_at=datetime.now(UTC),
    )
    async with Fleet(settings=QUICK, on_completed=told.append) as fleet:
        for _ in range(2):
            fleet.register(
                registration("a", "http://127.0.0.1:9", completed_operations=[completion])
            )
        found = await fleet.operation("op-9")
    assert told == [completion]
    assert (found["status"], found["error_message"]) == ("failed", "disk")


# Health


async def test_three_failed_checks_make_a_worker_unavailable_and_one_good_one_restores_it() -> None:
    well = False

    async def health(request: web.Request) -> web.StreamResponse:
        return web.json_response({"worker_status": "idle"}, status=200 if well else 500)

    settings = msgspec.structs.replace(QUICK, check_every_s=60.0)
    async with stand_in(health) as url, Fleet(settings=settings) as fleet:
        await asyncio.sleep(0)
        member = fleet.register(registration("a", url))
        states = []
        for _ in range(3):
            await fleet.check_all()
            states.append((member.failures, member.status))
        well = True
        await fleet.check_all()
    assert states == [
        (1, Status.AVAILABLE),
        (2, Status.AVAILABLE),
        (3, Status.TEMPORARILY_UNAVAILABLE),
    ]
    assert (member.failures, member.status) == (0, Status.AVAILABLE)


async def test_a_worker_that_stays_away_is_dropped_but_not_one_given_by_hand() -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    settings = msgspec.structs.replace(QUICK, failures_max=1, removal_s=0.0)
    async with Fleet([f"{gone}/fixed"], settings=settings) as fleet:
        fleet.register(registration("registered", gone))
        await eventually(lambda: fleet.members.get("registered") is None)
        assert [member.is_fixed for member in fleet.members] == [True]


async def _hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _flood(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"{" + b" " * (1 << 20), content_type="application/json")


async def _array(request: web.Request) -> web.StreamResponse:
    return web.json_response([1, 2])


async def _redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://169.254.0.1/")


@pytest.mark.parametrize("reply", [_hang, _flood, _array, _redirect])
async def test_workers_that_hang_flood_or_redirect_fail_their_check_alone(
    reply: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> None:
    settings = msgspec.structs.replace(QUICK, check_timeout_s=0.2)
    async with stand_in(reply) as url, fleet_of(1) as (fleet, _):
        fleet.settings = settings
        bad = fleet.register(registration("bad", url))
        await eventually(lambda: bad.status is Status.TEMPORARILY_UNAVAILABLE)
        good = fleet.members.get("w0")
        assert good is not None
        assert (good.status, good.failures) == (Status.AVAILABLE, 0)
        if reply is _redirect:
            assert bad.failure_text is not None
            assert bad.failure_text.startswith("answered 302")


async def test_lies_about_load_count_as_nothing() -> None:
    lie = b'{"active_tasks": -5, "queue_size": "many", "cpu_percent": 1e308, "worker_status": [], \
"current_operation": {"a": 1}}'

    async def health(request: web.Request) -> web.StreamResponse:
        return web.Response(body=lie, content_type="application/json")

    async with stand_in(health) as url, Fleet([url], settings=QUICK) as fleet:
        (member,) = fleet.members
        await eventually(lambda: member.checked_at is not None)
    assert member.load == Load(0.0, 0.0, 100.0)
    assert (member.status, member.current_operation_id) == (Status.AVAILABLE, None)


async def test_a_workers_words_reach_no_terminal_as_orders() -> None:
    async def health(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="a\x1b[31m\nb\x07")

    async with stand_in(health) as url, Fleet([url], settings=QUICK) as fleet:
        (member,) = fleet.members
        await eventually(lambda: member.failure_text)
    assert (
        member.failure_text
        == "answered 500: a\N{REPLACEMENT CHARACTER}[31m b\N{REPLACEMENT CHARACTER}"
    )


# Dispatch


async def test_operations_spread_and_the_last_one_finds_nobody() -> None:
    async with fleet_of(2) as (fleet, _):
        first = await fleet.start_operation("data-processing", {"task_id": "one", "rows": 1})
        second = await fleet.start_operation("data-processing", {"rows": 2})
        assert {first["worker_id"], second["worker_id"]} == {"w0", "w1"}
        with pytest.raises(FleetError, match="No workers available") as refused:
            await fleet.start_operation("data-processing", {"rows": 3})
        assert refused.value.status == 503
        with pytest.raises(FleetError, match="none registered"):
            await fleet.start_operation("training", {})


async def test_a_503_goes_to_another_worker() -> None:
    async with fleet_of(2, check_every_s=60.0) as (fleet, workers):
        direct = {"task_id": "direct", "rows": 1}
        assert (await workers[0].ask("POST", "/data-processing/start", direct)).status == 200
        for member in fleet.members:  # as stale as a registry gets between two checks
            member.status = Status.AVAILABLE
            member.chosen_count = 0 if member.id == "w0" else 1
        started = await fleet.start_operation("data-processing", {"rows": 2})
        assert started["worker_id"] == "w1"
        busy = fleet.members.get("w0")
        assert busy is not None
        assert busy.status is Status.BUSY


async def test_workers_given_by_hand_are_tried_whatever_they_serve() -> None:
    """Nothing is known of them but their URL; one that does not have the domain says so."""

    @task(domain="training")
    async def train(epochs: int) -> int:
        return epochs

    async with (
        serving(train, name="other", dialects=("operations",)) as other,
        serving(process, name="fitting", dialects=("operations",), stop_within_s=0.0) as fitting,
        Fleet([other.url, fitting.url], settings=QUICK) as fleet,
    ):
        started = await fleet.start_operation("data-processing", {"task_id": "one", "rows": 1})
        assert started["worker_id"] == "fitting"
        assert (await fleet.operation("one"))["status"] in ("running", "RUNNING")
        with pytest.raises(FleetError, match="does not have this domain") as refused:
            await fleet.start_operation("cooking", {})
        assert refused.value.status == 503


async def test_a_worker_that_vanished_is_passed_over() -> None:
    async with fleet_of(1, check_every_s=60.0) as (fleet, _):
        gone = fleet.register(registration("gone", f"http://127.0.0.1:{free_port()}"))
        good = fleet.members.get("w0")
        assert good is not None
        good.chosen_count = 1
        started = await fleet.start_operation("data-processing", {"rows": 2})
        assert started["worker_id"] == "w0"
        assert gone.failures == 1


async def test_a_worker_that_hangs_in_a_start_is_not_asked_twice() -> None:
    asked: list[str] = []

    async def hang(request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.json_response({})
        asked.append(request.path)
        return await _hang(request)

    async with stand_in(hang) as url, Fleet(settings=QUICK) as fleet:
        fleet.settings = msgspec.structs.replace(QUICK, request_timeout_s=0.1)
        fleet.register(registration("slow", url))
        with pytest.raises(FleetError, match="did not answer") as failed:
            await fleet.start_operation("data-processing", {"rows": 1})
    assert failed.value.status == 504
    assert asked == ["/data-processing/start"]


async def test_a_refused_request_is_the_callers_own_fault() -> None:
    async with fleet_of(2) as (fleet, _):
        with pytest.raises(FleetError, match="rows") as refused:
            await fleet.start_operation("data-processing", {"rows": "many"})
        assert refused.value.status == 422
        assert all(member.status is Status.AVAILABLE for member in fleet.members)


# Proxy


async def test_an_answer_is_good_for_a_second_and_then_asked_again() -> None:
    count = 0

    async def operation(request: web.Request) -> web.StreamResponse:
        nonlocal count
        if request.path.startswith("/api"):
            count += 1
        return web.json_response({"success": True, "data": {"status": "running", "n": count}})

    settings = msgspec.structs.replace(QUICK, cache_ttl_s=60.0)
    async with stand_in(operation) as url, Fleet(settings=settings) as fleet:
        fleet.register(registration("a", url, current_operation_id="op"))
        assert [(await fleet.operation("op"))["n"] for _ in range(3)] == [1, 1, 1]
        assert (await fleet.operation("op", force_refresh=True))["n"] == 2
        fleet.settings = msgspec.structs.replace(settings, cache_ttl_s=0.0)
        assert (await fleet.operation("op"))["n"] == 3


async def test_after_a_restart_operations_are_found_by_asking() -> None:
    async with fleet_of(3) as (fleet, workers):
        started = await fleet.start_operation("data-processing", {"task_id": "op", "rows": 1})
        async with Fleet([w.url for w in workers], settings=QUICK) as another:
            found = await another.operation("op")
            assert found["operation_id"] == started["operation_id"]
            with pytest.raises(FleetError, match="not found"):
                await another.operation("nobody")


@pytest.mark.parametrize("document", [[], "text", {"data": 5}])
async def test_an_answer_that_is_no_operation_is_said_to_be_none(document: Any) -> None:
    async def lie(request: web.Request) -> web.StreamResponse:
        return web.json_response(document)

    async with stand_in(lie) as url, Fleet(settings=QUICK) as fleet:
        fleet.register(registration("liar", url, current_operation_id="op"))
        with pytest.raises(FleetError, match="not an operation") as refused:
            await fleet.operation("op")
    assert refused.value.status == 502


async def test_the_end_of_a_backend_is_announced_to_its_workers() -> None:
    told = asyncio.Event()

    async def listen(request: web.Request) -> web.StreamResponse:
        if request.path == "/backend-shutdown":
            assert await request.json() == {"message": "Backend shutting down"}
            told.set()
        return web.json_response({})

    async with stand_in(listen) as url:
        fleet = Fleet([url, f"http://127.0.0.1:{free_port()}"], settings=QUICK)
        await fleet.start()
        await fleet.stop(announce=True)
    assert told.is_set()


async def test_workers_get_the_fleets_token() -> None:
    seen: set[str | None] = set()

    async def look(request: web.Request) -> web.StreamResponse:
        seen.add(request.headers.get("Authorization"))
        return web.json_response({})

    settings = msgspec.structs.replace(QUICK, token="secret")
    async with stand_in(look) as url, Fleet([url], settings=settings):
        await eventually(lambda: bool(seen))
    assert seen == {"Bearer secret"}
