"""The contract pages are run: every exchange on them is made with a real worker, and their tables
are compared with the code."""

from __future__ import annotations

import re
import threading
import typing
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp import web

from examples.vera.cluster_tasks import analyze_data, tool_call
from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import ROOT, eventually
from tests.support.pages import (
    Exchange,
    differences,
    exchanges_in,
    header_differences,
    is_of,
    least,
    names_in,
    sections_of,
    tables_in,
    text_differences,
    value_at,
)
from worker_runtime import JobContext, Runtime, Settings, errors, task
from worker_runtime.clock.source import SYSTEM
from worker_runtime.contracts.registration import CompletedOperation, Registration
from worker_runtime.environment import variables_of
from worker_runtime.fleet import Fleet, FleetSettings, mount
from worker_runtime.fleet.members import Status
from worker_runtime.web import build_app
from worker_runtime.web.app import DIALECTS
from worker_runtime.web.sandbox.dialect import Config, TaskAnswer, TaskRequest
from worker_runtime.web.sandbox.simulated_task import SimulatedTask
from worker_runtime.web.vera.dialect import (
    ExecuteRequest,
    PoolRequest,
    SubmitAnswer,
    TaskRecord,
)
from worker_runtime.web.vera.submission import Payload, Submission
from worker_runtime.web.wire.rejection import rejection_of

PAGES = {
    path.stem: path.read_text()
    for path in sorted((ROOT / "docs" / "contracts").glob("*.md"))
    if path.stem != "arq"  # its wire is Redis
}
go_on = threading.Event()


class ProcessingRequest(msgspec.Struct):
    source_file: str
    operations: list[str]
    estimated_rows: int = 0


@task(name="data-processing", domain="data-processing", run_in="thread")
def process(ctx: JobContext, request: ProcessingRequest) -> dict[str, int]:
    """Report, and go on until the test or a cancel ends it."""
    ctx.record_metric("rows_processed", 4500)
    ctx.report(4500, 10_000, step="clean: 4500/10000 rows")
    while not go_on.wait(0.01):
        ctx.raise_if_cancelled()
    return {"rows_processed": request.estimated_rows}


def tasks_of(page: str) -> list[Callable[..., Any]]:
    if page == "sandbox":
        return [
            task(name="task")(SimulatedTask(response_delay_ms=1, failure_rate=0.0, clock=SYSTEM))
        ]
    if page == "vera":
        return [task(tool_call), task(analyze_data)]
    return [process]


SETTINGS: dict[str, dict[str, Any]] = {
    "http": {},
    "sandbox": {"dialects": ("sandbox",), "name": "my-worker-1", "concurrency": 1},
    "vera": {"dialects": ("vera",), "name": "vera-worker-1"},
    "operations": {
        "dialects": ("operations",),
        "name": "data-processing-worker-1",
        "stop_within_s": 0.1,
        "cancel_grace_s": 0.1,
    },
}


class Asked(NamedTuple):
    """One request of a worker and what it was answered."""

    method: str
    path: str
    sent: Any
    headers: Any
    answer_headers: Any
    answered: Any


class World:
    """A worker, and for the operations the front that it registers at, through a recorder."""

    def __init__(
        self, worker: Worker, fleet: Fleet | None = None, recorder: Recorder | None = None
    ) -> None:
        self.worker = worker
        self.fleet = fleet
        self.recorder = recorder

    async def compare(self, exchange: Exchange) -> list[str]:
        """Make the request of an exchange; how the answer differs from the written one."""
        url = f"{self.worker.url}{exchange.path}"
        if exchange.section == "The front" and self.recorder is not None:
            url = f"{self.recorder.front_url}{exchange.path}"
        sent = exchange.sent
        body = msgspec.json.encode(sent) if sent is not None else None
        async with self.worker.http.request(
            exchange.method, url, data=body, headers=exchange.headers
        ) as answer:
            return answered_differently(
                exchange, answer.status, dict(answer.headers), await answer.read()
            )


def answered_differently(
    exchange: Exchange, status: int, headers: dict[str, str], body: bytes
) -> list[str]:
    if status != exchange.status:
        return [f"the status is really {status}: {body[:300]!r}"]
    found = header_differences(exchange.answer_headers, headers)
    if exchange.answered is None:
        return found + ([f"there is really a body, {body[:100]!r}"] if body else [])
    if isinstance(exchange.answered, str):
        return found + text_differences(exchange.answered, body.decode())
    return found + differences(exchange.answered, msgspec.json.decode(body))


@asynccontextmanager
async def full(world: World) -> AsyncIterator[None]:
    """No other job has room in the worker's queue."""
    runtime = world.worker.runtime
    name = runtime.tasks[0].queue
    capacity = runtime.queue_info(name).capacity
    runtime.pause(name)
    runtime.resize(name, capacity=1)
    arguments = {"task": {}, "tool_call": {"tool_name": "add", "tool_input": {"a": 1.0}}}
    task_name = runtime.tasks[0].name
    waiting = await runtime.enqueue(task_name, **arguments[task_name])
    yield
    runtime.resize(name, capacity=capacity)
    runtime.resume(name)
    await waiting.result(timeout_s=20)


@asynccontextmanager
async def available(world: World) -> AsyncIterator[None]:
    """The front knows that its worker is free."""
    fleet = world.fleet
    assert fleet is not None
    await eventually(lambda: [m.status for m in fleet.members] == [Status.AVAILABLE])
    yield


@asynccontextmanager
async def registered_again(world: World) -> AsyncIterator[None]:
    """Afterwards the worker has reported what it ended."""
    recorder = world.recorder
    assert recorder is not None
    yield
    await eventually(
        lambda: any(a.sent["completed_operations"] for a in recorder.asked if a.method == "POST")
    )


AROUND: dict[tuple[str, str], Callable[[World], Any]] = {
    ("sandbox", "POST /task 503"): full,
    ("vera", "POST /task/submit 503"): full,
    ("operations", "POST /backend-shutdown 200"): registered_again,
    ("operations", "POST /api/v1/data-processing/start 200"): available,
}


async def walked(page: str, world: World) -> list[str]:
    """What differs on a page. An answer to GET may take a moment until it is as written: what it
    tells of still goes on."""
    found: list[str] = []
    for exchange in exchanges_in(PAGES[page]):
        if exchange.section == "Registration":  # the worker's own requests
            continue
        around = AROUND.get((page, exchange.title), nullcontext)
        async with around(world):
            different = await world.compare(exchange)
            if different and exchange.method == "GET":
                different = await patiently(world, exchange)
        found += [f"{exchange.title}: {text}" for text in different]
    return found


async def patiently(world: World, exchange: Exchange) -> list[str]:
    different: list[str] = []

    async def is_same() -> bool:
        nonlocal different
        different = await world.compare(exchange)
        return not different

    try:
        await eventually(is_same, timeout_s=5.0)
    except AssertionError:
        return different
    return []


@pytest.fixture(autouse=True)
def _held_back() -> None:
    go_on.clear()


@pytest.mark.parametrize("page", ["http", "sandbox", "vera"])
async def test_a_worker_answers_as_the_page_says(page: str) -> None:
    async with serving(*tasks_of(page), **SETTINGS[page]) as worker:
        assert await walked(page, World(worker)) == []


async def test_a_worker_and_a_front_answer_as_the_operations_page_says() -> None:
    fleet = Fleet(settings=FleetSettings(check_every_s=0.05))
    async with AsyncExitStack() as stack:
        front = web.Application()
        mount(front, fleet)
        front_url = await stack.enter_async_context(listening(front))
        recorder = Recorder(front_url)
        backend_url = await stack.enter_async_context(recorder.listening())
        async with serving(
            process, registers=True, backend_url=backend_url, **SETTINGS["operations"]
        ) as worker:
            await eventually(lambda: len(fleet.members) == 1)
            assert await walked("operations", World(worker, fleet, recorder)) == []
        # It stopped while it ran what the front had started, and has said so.
        of_worker = [e for e in exchanges_in(PAGES["operations"]) if e.section == "Registration"]
        assert len(of_worker) == 2
        found = [f"{e.title}: {text}" for e in of_worker for text in recorder.compare(e)]
        assert found == []


class Recorder:
    """Passes on what a worker asks its backend, and remembers it."""

    def __init__(self, front_url: str) -> None:
        self.front_url = front_url
        self.asked: list[Asked] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        async with aiohttp.ClientSession() as self._http, listening(app) as url:
            yield url

    async def _pass_on(self, request: web.Request) -> web.Response:
        sent = await request.read()
        url = f"{self.front_url}{request.path_qs}"
        async with self._http.request(request.method, url, data=sent) as answer:
            body = await answer.read()
            self.asked.append(
                Asked(
                    request.method,
                    request.path,
                    msgspec.json.decode(sent) if sent else None,
                    dict(request.headers),
                    dict(answer.headers),
                    msgspec.json.decode(body),
                )
            )
            return web.Response(body=body, status=answer.status, content_type=answer.content_type)

    def compare(self, exchange: Exchange) -> list[str]:
        """How the worker's own request, the one of this kind that is nearest to it, differs."""
        path = re.sub(r"/op-\d+", "/[^/]+", exchange.path)
        asked = [
            a for a in self.asked if a.method == exchange.method and re.fullmatch(path, a.path)
        ]
        assert asked, f"the worker has not asked {exchange.title}; it asked {self.asked}"
        return least(self._differs(exchange, one) for one in asked)

    def _differs(self, exchange: Exchange, asked: Asked) -> list[str]:
        for document in (asked.sent, asked.answered):
            for only_with_one in ("gpu_type", "gpu_count"):
                document.get("capabilities", {}).pop(only_with_one, None)
        found = differences(exchange.sent, asked.sent, "request")
        headers = {name.lower(): value for name, value in asked.headers.items()}
        for name, value in exchange.headers.items():
            if headers.get(name.lower()) != value:
                found.append(f"request header {name} is really {headers.get(name.lower())!r}")
        found += header_differences(exchange.answer_headers, asked.answer_headers)
        return found + differences(exchange.answered, asked.answered)


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


# Tables


def app_of(page: str) -> web.Application:
    settings = Settings.from_environment({}, **SETTINGS[page])
    return build_app(Runtime(tasks_of(page), settings=settings), settings)


def routes_of(app: web.Application) -> set[str]:
    found = set()
    for route in app.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        if route.method not in ("HEAD", "OPTIONS", "*") and not path.startswith("/v1/"):
            found.add(f"{route.method} {path.replace('/data-processing/', '/{domain}/')}")
    return found


@pytest.mark.parametrize("page", DIALECTS)
def test_every_route_is_in_the_table(page: str) -> None:
    [table] = [t for t in tables_in(PAGES[page]) if t[0][0] == "route"]
    named = {route for row in table[1:] for route in names_in(row[0])}
    shared = {"GET /livez", "GET /readyz", "GET /metrics/prometheus"}  # on the page of all
    assert named | shared == routes_of(app_of(page)) | shared


def test_every_route_of_the_front_is_in_the_table() -> None:
    app = web.Application()
    mount(app, Fleet())
    [table] = [t for t in tables_in(PAGES["operations"]) if t[0][0] == "route of the front"]
    assert {route for row in table[1:] for route in names_in(row[0])} == routes_of(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_field_of_an_example_is_explained_with_its_type(page: str) -> None:
    problems: list[str] = []
    for section, text in sections_of(PAGES[page]):
        answers = [e.answered for e in exchanges_in(f"## {section}\n{text}")]
        documents = [a for a in answers if isinstance(a, dict)]
        explained: set[str] = set()
        for table in tables_in(text):
            inside = names_in(table[0][0])
            if not table[0][0].startswith("field") or table[0][1] != "type":
                continue
            for row in table[1:]:
                path = ".".join([*inside, *names_in(row[0])])
                explained.add(path)
                values = [value for document in documents for value in value_at(document, path)]
                if not values and "left out" not in row[2]:
                    problems.append(f"{section}: no example has `{path}`")
                if not any(is_of(row[1], value) for value in values) and values:
                    problems.append(f"{section}: `{path}` is not {row[1]} but {values}")
        if page != "http" and section not in NOT_EXPLAINED:
            problems += [
                f"{section}: `{path}` is not explained"
                for document in documents
                for path in fields_of(document)
                if not explained & {path, path.rpartition(".")[0]}
            ]
    assert problems == []


# `detail` is explained in words, or the document is one that stands in full elsewhere on the page.
NOT_EXPLAINED = frozenset({"Refusals", "GET /task/{task_id}", "Registration", "The front",
                           "POST /{domain}/resume", "GET /config, PUT /config"})  # fmt: skip


def fields_of(document: dict[str, Any]) -> list[str]:
    """The names of a document's fields; of a `data` object the names in that."""
    data = document.get("data")
    if isinstance(data, dict) and "operations" not in data:
        return [f"data.{name}" for name in data]
    return list(document)


STRUCTS = [
    ("sandbox", "POST /task", "asked with", TaskRequest),
    ("sandbox", "POST /task", "field", TaskAnswer),
    ("sandbox", "GET /config, PUT /config", "field", Config),
    ("vera", "POST /task/submit", "asked with", Submission),
    ("vera", "POST /task/submit", "field", SubmitAnswer),
    ("vera", "GET /task/{task_id}", "field", TaskRecord),
    ("vera", "POST /execute", "asked with", ExecuteRequest),
    ("vera", "POST /submit", "asked with", PoolRequest),
    ("operations", "Registration", "asked with", Registration),
]


@pytest.mark.parametrize(("page", "section", "heading", "struct"), STRUCTS)
def test_a_table_has_the_fields_of_the_struct(
    page: str, section: str, heading: str, struct: type[msgspec.Struct]
) -> None:
    text = dict(sections_of(PAGES[page]))[section]
    [table] = [t for t in tables_in(text) if t[0][0] == heading]
    named = {name for row in table[1:] for name in names_in(row[0])}
    real = {field.encode_name for field in msgspec.structs.fields(struct)}
    inner = {f"payload.{field}" for field in Payload.__struct_fields__}
    assert named == (real | inner if struct is Submission else real)


def test_a_completed_operation_has_the_fields_that_the_page_names() -> None:
    text = dict(sections_of(PAGES["operations"]))["Registration"]
    [words] = re.findall(r"Each entry of `completed_operations` has (.*?)\. The", text, re.DOTALL)
    named = [word for word in names_in(words) if word.islower()]
    assert set(named) == set(CompletedOperation.__struct_fields__)


@pytest.mark.parametrize("page", DIALECTS)
def test_every_metric_is_in_the_table(page: str) -> None:
    settings = Settings.from_environment({}, **SETTINGS[page])
    runtime = Runtime(tasks_of(page), settings=settings)
    dialect = DIALECTS[page](runtime, settings)
    real = {
        (metric.name + ("_total" if metric.type == "counter" else ""), metric.type)
        for metric in dialect.collect()
    }
    [table] = [t for t in tables_in(PAGES[page]) if t[0][:2] == ["name", "kind"]]
    assert {(names_in(row[0])[0], row[1]) for row in table[1:]} == real


@pytest.mark.parametrize("page", DIALECTS)
def test_every_variable_is_one_of_the_settings(page: str) -> None:
    hints = typing.get_type_hints(Settings, include_extras=True).values()
    field_of = {name: variables_of(hint) for hint in hints for name in variables_of(hint)}
    [table] = [t for t in tables_in(PAGES[page]) if t[0][0] == "variable"]
    for row in table[1:]:
        names = names_in(row[0])
        assert all(name in field_of for name in names), names
        is_one = len({field_of[name] for name in names}) == 1
        assert is_one or names == ["MAX_CPU_PERCENT", "MAX_MEMORY_PERCENT"], names


def test_every_refusal_has_the_status_that_the_page_gives_it() -> None:
    text = dict(sections_of(PAGES["http"]))["Refusals"]
    [table] = [t for t in tables_in(text) if t[0][0] == "code"]
    named = {(names_in(row[0])[0], int(row[1])) for row in table[1:]}
    refused = [kind for kind in vars(errors).values() if _is_refusal(kind)]
    rejections = [rejection_of(kind("why")) for kind in refused]
    real = {(rejection.code, rejection.status) for rejection in rejections}
    assert named == real | {("internal_error", 500)}


def _is_refusal(kind: Any) -> bool:
    kinds = (errors.Refused, errors.UnknownJob, errors.InvalidTransition)
    return isinstance(kind, type) and issubclass(kind, kinds) and kind is not errors.Refused
