"""Who may ask (B5): a page of another origin changes nothing, by any route of any dialect."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from tests.support.applications import running
from tests.support.fleet_worker import Worker, serving
from worker_runtime import Runtime, Settings, task
from worker_runtime.contracts.guides import GUIDES
from worker_runtime.contracts.origins import SAFE_METHODS
from worker_runtime.web import build_app, mount
from worker_runtime.web.app import DIALECTS
from worker_runtime.web.wire.bodies.answers import problem
from worker_runtime.web.wire.dialect import DialectDefaults

PAGE = "https://page.example"
PROBES = ("/livez", "/readyz", "/health", "/metrics", "/metrics/prometheus", "/heartbeat")
FOREIGN = [
    {"Origin": PAGE},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "127.0.0.1"},
    {"Origin": "http://127.0.0.1"},  # another port is another origin
    {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"},
    {"Origin": PAGE, "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"origin": PAGE.upper(), "Content-Type": "text/plain"},
    {"Origin": PAGE, "Content-Type": "application/x-www-form-urlencoded"},
]


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@task(name="task")
async def echo(id: str, weight: float) -> str:
    return id


@task(domain="data-processing")
async def process(rows: int = 1) -> int:
    return rows


TASKS = (add, echo, process)


def _routes(dialects: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Each method and path that a whole application serves, and some that it does not."""
    settings = Settings(dialects=tuple(dialects))
    for route in build_app(Runtime(TASKS, settings=settings)).router.routes():
        assert route.resource is not None
        path = re.sub(r"\{[^}]+\}", "x1", route.resource.canonical)
        for method in ("POST", "DELETE", "PROPFIND") if route.method == "*" else (route.method,):
            yield method, path


EVERY = sorted({*_routes(tuple(GUIDES)), *_routes(())})
CHANGING = [(method, path) for method, path in EVERY if method not in SAFE_METHODS]
READING = [(method, path) for method, path in EVERY if method in SAFE_METHODS]


def own_hosts(worker: Worker) -> list[str]:
    port = worker.url.rpartition(":")[2]
    names = ("127.0.0.1", "LOCALHOST", "localhost.", "app.localhost", "127.8.0.1", "[::1]")
    return [*(f"{name}:{port}" for name in names), "localhost", "[::ffff:127.0.0.1]:1", "[0::1]"]


async def snapshot(worker: Worker) -> Any:
    """What requests may change here."""
    runtime = worker.runtime
    queues = [(q.name, q.concurrency, q.capacity, q.paused) for q in runtime.queue_infos()]
    return (await runtime.list_jobs()).jobs, queues


def test_the_matrix_has_all_there_is() -> None:
    assert {"/task", "/config", "/execute", "/submit", "/data-processing/start"} <= {
        path for _, path in CHANGING
    }
    assert ("POST", "/v1/queues/x1/pause") in CHANGING
    assert ("OPTIONS", "/task") in READING


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_a_page_of_another_origin_changes_nothing(method: str, path: str) -> None:
    async with serving(*TASKS) as worker:
        path = path.replace("queues/x1", "queues/default")
        before = await snapshot(worker)
        for headers in FOREIGN:
            answer = await worker.ask(method, path, data=b'{"task": "add"}', headers=headers)
            assert answer.status == 403, headers
            assert "another origin" in answer.text or "of origin" in answer.text
            assert "WORKER_CORS_ORIGINS" in answer.text
        assert await snapshot(worker) == before


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_programs_the_workers_own_pages_and_those_of_named_origins_are_served(
    method: str, path: str
) -> None:
    names = ("https://UI.example:443/", "http://ui.example:3000")
    async with serving(*TASKS, cors_origins=names) as worker:
        plain = await worker.ask(method, path, data=b"{")
        assert plain.status != 403
        for headers in (
            {"Origin": worker.url},
            {"Origin": worker.url, "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "https://ui.example"},
            {"Origin": "https://ui.example", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://ui.example:3000", "Sec-Fetch-Site": "same-site"},
        ):
            answer = await worker.ask(method, path, data=b"{", headers=headers)
            assert answer.status == plain.status, headers
        for origin in ("http://ui.example", "https://ui.example:3000", "https://ui.example.evil"):
            answer = await worker.ask(method, path, data=b"{", headers={"Origin": origin})
            assert answer.status == 403, origin


@pytest.mark.parametrize(("method", "path"), READING)
async def test_reading_and_preflight_are_as_the_contract_says(method: str, path: str) -> None:
    async with serving(*TASKS) as worker:
        before = await snapshot(worker)
        plain = await worker.ask(method, path)
        for headers in FOREIGN:
            assert (await worker.ask(method, path, headers=headers)).status == plain.status
        assert await snapshot(worker) == before  # what only reads is no way in


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_on_loopback_without_a_token_only_loopback_names_are_answered_to(
    method: str, path: str
) -> None:
    async with serving(*TASKS) as worker:
        plain = await worker.ask(method, path)
        for host in own_hosts(worker):
            answer = await worker.ask(method, path, headers={"Host": host})
            assert answer.status == plain.status, host
        rebound = {"Host": "page.example:8080", "Origin": "http://page.example:8080"}
        for host in (
            "page.example",
            "127.0.0.1.page.example:80",
            "localhost.page.example",
            "notlocalhost",
            "10.0.0.1",
            "0.0.0.0",
            "[fe80::1]",
            "localhost:80:80",
            "localhost, page.example",
            "user@localhost",
            "",
        ):
            rebound["Host"] = host
            answer = await worker.ask(method, path, headers=rebound)
            if path in PROBES and method in SAFE_METHODS:
                assert answer.status == plain.status, host
            else:
                assert answer.status == 403, host
                assert method == "HEAD" or "WORKER_HOSTS" in answer.text


@pytest.mark.parametrize(
    ("settings", "taken", "refused"),
    [
        ({"hosts": ("app.example",)}, ("APP.example:443", "localhost"), ("b.example",)),
        ({"hosts": ("::2",)}, ("[::2]:80",), ("[::3]:80",)),
        ({"token": "a long enough secret"}, ("a.example", ""), ()),
        ({"token": "s", "hosts": ("a.example",)}, ("a.example:1",), ("b.example", "localhost")),
        ({"host": "0.0.0.0"}, ("a.example", "10.0.0.1:8080", "localhost"), ()),
        (
            {"host": "0.0.0.0", "hosts": ("a.example",)},
            ("a.example:80",),
            ("b.example", "10.0.0.1"),
        ),
        ({"host": "no-such-host.invalid"}, ("a.example",), ()),
    ],
)
async def test_elsewhere_and_with_a_token_any_host_will_do_unless_some_are_named(
    settings: dict[str, Any], taken: Sequence[str], refused: Sequence[str]
) -> None:
    token = settings.get("token")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with serving(*TASKS, allow_anonymous=True, **settings) as worker:
        for hosts, status in ((taken, 200), (refused, 403)):
            for host in hosts:
                answer = await worker.ask("GET", "/v1/queues", headers={**headers, "Host": host})
                assert answer.status == status, host


async def test_the_name_that_the_worker_is_bound_to_is_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.1.1", 0))])
    app = build_app(Runtime(TASKS, settings=Settings(host="my-machine")))
    monkeypatch.undo()
    async with running(app) as url, aiohttp.ClientSession() as http:
        for host, status in (("my-machine:80", 200), ("other-machine", 403)):
            async with http.get(f"{url}/v1/queues", headers={"Host": host}) as answer:
                assert answer.status == status


async def test_a_request_without_a_host_is_no_browsers() -> None:
    async with serving(*TASKS) as worker:
        host, _, port = worker.url.removeprefix("http://").partition(":")
        for version, status in ((b"1.0", b"200"), (b"1.1", b"400")):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /v1/queues HTTP/%b\r\nConnection: close\r\n\r\n" % version)
            assert (await reader.readline()).split()[1] == status
            writer.close()
            await writer.wait_closed()


async def test_the_hosts_that_are_remembered_are_bounded_and_all_are_right() -> None:
    async with serving(*TASKS) as worker:
        for port in range(200):
            for name, status in (("localhost", 200), ("page.example", 403)):
                headers = {"Host": f"{name}:{port}"}
                assert (await worker.ask("GET", "/v1/queues", headers=headers)).status == status


async def test_inside_an_application_the_page_counts_and_the_host_is_the_applications() -> None:
    runtime = Runtime(TASKS, settings=Settings(cors_origins=("https://ui.example",)))
    app = web.Application()
    mount(app, runtime, prefix="/work", manage=True)
    async with running(app) as url, aiohttp.ClientSession() as http:
        pause = f"{url}/work/queues/default/pause"
        for headers, status in (
            ({"Host": "app.example"}, 200),
            ({"Host": "app.example", "Origin": "https://app.example"}, 200),
            ({"Host": "app.example:443", "Origin": "https://app.example"}, 200),
            ({"Host": "app.example", "Origin": "https://ui.example"}, 200),
            ({"Host": "app.example", "Origin": PAGE}, 403),
            ({"Host": "app.example", "Origin": "https://app.example:8443"}, 403),
            ({"Host": "app.example", "Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            async with http.post(pause, headers=headers) as answer:
                assert answer.status == status, headers
        async with http.get(f"{url}/work/jobs", headers={"Origin": PAGE}) as answer:
            assert answer.status == 200


async def test_a_dialect_to_come_cannot_leave_a_route_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(DialectDefaults):
        name = "careless"
        open_paths = frozenset({"/erase"})
        refuse = staticmethod(problem)

        def __init__(self, runtime: Runtime, settings: Settings) -> None: ...

        def routes(self) -> Sequence[web.RouteDef]:
            every = ("POST", "PUT", "PATCH", "DELETE", "PURGE", "*")
            return [web.route(method, "/erase", self._erase) for method in every]

        async def _erase(self, request: web.Request) -> web.Response:
            return web.Response()

        def health(self) -> Mapping[str, Any]:
            return {}

    monkeypatch.setitem(DIALECTS, "careless", Careless)
    runtime = Runtime(TASKS, settings=Settings())
    names: Any = ("careless",)
    app = build_app(runtime, msgspec.structs.replace(runtime.settings, dialects=names))
    async with running(app) as url, aiohttp.ClientSession() as http:
        for method in ("POST", "PUT", "PATCH", "DELETE", "PURGE", "PROPFIND", "GET"):
            for headers, status in (({}, 200), ({"Origin": PAGE}, 403)):
                wanted = 200 if method == "GET" else status
                async with http.request(method, f"{url}/erase", headers=headers) as answer:
                    assert answer.status == wanted, method


async def test_the_token_is_asked_for_after_the_page() -> None:
    async with serving(*TASKS, token="a long enough secret") as worker:
        own = {"Authorization": "Bearer a long enough secret"}
        answer = await worker.ask("POST", "/v1/jobs", headers={**own, "Origin": PAGE})
        assert (answer.status, answer.document["code"]) == (403, "foreign_origin")
