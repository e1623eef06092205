"""Each option of a job at each door: the same job, the same refusals, and what each store keeps."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import ROOT
from tests.support.redis_server import RedisServer
from worker_runtime import InvalidJob, Priority, QueueSettings, Retry, Runtime, State, task
from worker_runtime.client import BlockingClient, Client, ConfiguredClient
from worker_runtime.contracts.job_documents import NewJob
from worker_runtime.model.job import Job
from worker_runtime.model.states import JOB_ID_WORDS
from worker_runtime.model.tasks.options import (
    NAMED,
    NO_OPTIONS,
    NOT_OFFERED,
    OPTIONS,
    JobOptions,
    Option,
    PlainOptions,
)
from worker_runtime.stores.memory import MemoryStore
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.sqlite.store import SqliteStore

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1000)
QUEUES = (QueueSettings("other"),)
NOT_NOW: dict[str, Any] = {"delay_s": 5000}
PARENT = "first:job"


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


class Given(typing.NamedTuple):
    """An option as Python code gives it (but `after`, there by ids too), as a body does, and what
    the job has then: a value, or what follows from the job."""

    python: Any
    body: Any
    kept: Any


GIVEN = {
    "job_id": Given("my:job", "my:job", "my:job"),
    "queue": Given("other", "other", "other"),
    "priority": Given(Priority.HIGH, "high", Priority.HIGH),
    "delay_s": Given(4000, 4000, lambda job: pytest.approx(job.created_at + 4000, abs=60)),
    "at": Given(
        LATER, LATER.astimezone(timezone(timedelta(hours=2))).isoformat(), LATER.timestamp()
    ),
    "timeout_s": Given(7.5, 7.5, 7.5),
    "result_ttl_s": Given(60, 60, 60),
    "retry": Given(
        Retry(max_attempts=5, delay_s=0.5, factor=3, delay_max_s=9, jitter=0),
        {"max_attempts": 5, "delay_s": 0.5, "factor": 3, "delay_max_s": 9, "jitter": 0},
        Retry(max_attempts=5, delay_s=0.5, factor=3, delay_max_s=9, jitter=0),
    ),
    "expires_s": Given(8000, 8000, lambda job: pytest.approx(job.created_at + 8000, abs=60)),
    "label": Given("for Ada", "for Ada", "for Ada"),
    "key": Given("customer:7", "customer:7", "customer:7"),
    "unique_key": Given("report:7", "report:7", "report:7"),
    "unique_for_s": Given(3600, 3600, None),
    "unique_states": Given([State.COMPLETED, State.QUEUED], ["completed", "queued"], None),
    "after": Given([PARENT], [PARENT], (PARENT,)),
}
NULLS = {"timeout_s": None, "retry": None}  # where None says something of its own
CASES = [
    *(pytest.param(name, given, id=name) for name, given in GIVEN.items()),
    *(pytest.param(name, Given(None, None, None), id=f"{name}-null") for name in NULLS),
    pytest.param("delay_s", Given(0, 0, 0), id="delay_s-zero"),
    pytest.param(
        "retry",
        Given(Retry(max_attempts=2), {"max_attempts": 2}, Retry(max_attempts=2)),
        id="retry-in-part",
    ),
]


# Doors: each enqueues `add(1)` at the worker with options and tells the job's id.

Door = Callable[[Worker, Mapping[str, Any]], Awaitable[str]]


async def in_python(worker: Worker, options: Mapping[str, Any]) -> str:
    after = [await worker.runtime.find(job_id) for job_id in options.get("after", ())]
    given = {**options, "after": after}
    return (await worker.runtime.options(**given).enqueue(add, 1)).id


async def by_client(worker: Worker, options: Mapping[str, Any]) -> str:
    async with Client(worker.url) as client:
        return (await client.options(**options).enqueue(add, 1)).id


async def as_json(worker: Worker, options: Mapping[str, Any]) -> str:
    answer = await worker.ask("POST", "/v1/jobs", body_of(options))
    assert answer.status in (200, 202), answer.text
    return str(answer.document["id"])


async def as_messagepack(worker: Worker, options: Mapping[str, Any]) -> str:
    data = msgspec.msgpack.encode(body_of(options))
    headers = {"Content-Type": "application/msgpack"}
    answer = await worker.ask("POST", "/v1/jobs", data=data, headers=headers)
    assert answer.status in (200, 202), answer.text
    return str(answer.document["id"])


async def in_a_batch(worker: Worker, options: Mapping[str, Any]) -> str:
    answer = await worker.ask("POST", "/v1/jobs/batch", [body_of(options)])
    assert answer.document[0]["status"] in (200, 202), answer.text
    return str(answer.document[0]["job"]["id"])


PYTHON_DOORS: dict[str, Door] = {"python": in_python, "client": by_client}
BODY_DOORS: dict[str, Door] = {
    "json": as_json,
    "messagepack": as_messagepack,
    "batch": in_a_batch,
}
DOORS = [*PYTHON_DOORS, *BODY_DOORS]


def body_of(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = {NAMED[name].wire: value for name, value in options.items()}
    return {"task": "add", "args": [1], **fields}


async def enqueue(worker: Worker, door: str, options: Mapping[str, Given]) -> str:
    if door in PYTHON_DOORS:
        python = {name: value.python for name, value in options.items()}
        return await PYTHON_DOORS[door](worker, python)
    return await BODY_DOORS[door](worker, {name: value.body for name, value in options.items()})


def shown(job: Job) -> dict[str, Any]:
    """What the job has where options are kept."""
    options = job.options or NO_OPTIONS
    return {
        option.kept_as: getattr(options, option.field)
        if option.field
        else getattr(job, option.kept_as)
        for option in OPTIONS
        if option.kept_as is not None
    }


def expected_of(job: Job, options: Mapping[str, Given]) -> dict[str, Any]:
    return {
        NAMED[name].kept_as or "": given.kept(job) if callable(given.kept) else given.kept
        for name, given in options.items()
        if NAMED[name].kept_as is not None
    }


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with serving(add, dialects=(), queues=QUEUES) as worker:
        await worker.runtime.options(job_id=PARENT, **NOT_NOW).enqueue(add, 0)
        yield worker


def with_companions(name: str, given: Given) -> dict[str, Given]:
    """The option and what it cannot be without."""
    if name in ("unique_for_s", "unique_states"):
        return {name: given, "unique_key": GIVEN["unique_key"]}
    return {name: given}


# Doors


def test_every_option_is_tried() -> None:
    assert list(GIVEN) == list(NAMED)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("name", "given"), CASES)
async def test_an_option_makes_the_same_job_at_every_door(
    worker: Worker, name: str, given: Given, door: str
) -> None:
    options = with_companions(name, given)
    job = await worker.runtime.job(await enqueue(worker, door, options))
    plain = (await worker.runtime.enqueue(add, 1)).job
    assert shown(job) == {**shown(plain), "id": job.id, **expected_of(job, options)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "counts"), [(None, False), ("unique_for_s", True), ("unique_states", True)]
)
async def test_which_jobs_hold_a_unique_key_is_told_at_every_door(
    worker: Worker, name: str | None, counts: bool, door: str
) -> None:
    options = {each: GIVEN[each] for each in ("unique_key", name) if each is not None}
    first = await enqueue(worker, door, options)
    await (await worker.runtime.find(first)).result(timeout_s=5)
    assert (await enqueue(worker, door, options) == first) is counts


async def test_a_client_names_jobs_by_their_handles_or_ids(worker: Worker) -> None:
    async with Client(worker.url) as client:
        one, other = [await client.options(delay_s=5000).enqueue(add, n) for n in (1, 2)]
        after = await client.options(after=[one, other.id]).enqueue(add, 3)
    job = await worker.runtime.job(after.id)
    assert job.options == JobOptions(after=(one.id, other.id))


def test_the_blocking_client_takes_them_all() -> None:
    with BlockingClient("http://127.0.0.1:9") as blocking:
        given = {name: value.python for name, value in GIVEN.items() if name not in ("at", "after")}
        assert isinstance(blocking.client.options(**given), ConfiguredClient)


# Refusals

SOME_STATES = "some of scheduled, queued, running, completed, failed, cancelled"
FIELDS_OF_RETRY = "max_attempts, delay_s, factor, delay_max_s, jitter"
NO_CLASSES = (
    "retry: only_for names classes, which do not travel to another process; "
    "give it to @task(retry=...)"
)


@pytest.mark.parametrize(
    ("name", "python", "body", "text"),
    [
        (
            "job_id",
            "a b",
            "a b",
            f"job id 'a b' must {JOB_ID_WORDS}",
        ),
        ("job_id", 5, 5, f"job id '5' must {JOB_ID_WORDS}"),
        ("queue", 5, 5, "queue must be the name of a queue, not 5"),
        (
            "priority",
            "urgent",
            "urgent",
            "priority must be a Priority, not 'urgent': one of low, normal, high, critical",
        ),
        (
            "priority",
            2,
            2,
            "priority must be a Priority, not 2: one of low, normal, high, critical",
        ),
        ("delay_s", -1, -1, "delay_s must be seconds, 0 or more and at most 315360000, not '-1'"),
        ("delay_s", "5", "5", "delay_s must be seconds, 0 or more and at most 315360000, not '5'"),
        (
            "delay_s",
            True,
            True,
            "delay_s must be seconds, 0 or more and at most 315360000, not 'True'",
        ),
        ("at", "soon", "soon", "at must be an aware datetime, not 'soon'"),
        (
            "at",
            datetime(2026, 1, 1),  # noqa: DTZ001
            "2026-01-01T00:00:00",
            "at must be an aware datetime: a naive one names no moment",
        ),
        (
            "at",
            datetime(2999, 1, 1, tzinfo=UTC),
            "2999-01-01T00:00:00Z",
            "at must be an aware datetime at most 315360000 s ahead, not 2999-01-01T00:00:00+00:00",
        ),
        ("timeout_s", 0, 0, "timeout_s must be seconds, above 0 and at most 1000000000, not '0'"),
        (
            "timeout_s",
            [],
            [],
            "timeout_s must be seconds, above 0 and at most 1000000000, not '[]'",
        ),
        (
            "result_ttl_s",
            None,
            None,
            "result_ttl_s must be seconds, 0 or more and at most 10000000000, not 'None'",
        ),
        ("retry", 3, 3, "retry must be a Retry or None, not '3'"),
        ("expires_s", 0, 0, "expires_s must be seconds, above 0 and at most 10000000000, not '0'"),
        (
            "label",
            "x" * 2001,
            "x" * 2001,
            "label must be text of at most 2000 characters, not 2001 characters",
        ),
        ("label", 5, 5, "label must be text of at most 2000 characters, not 5"),
        ("key", "", "", "key must be text of 1 to 256 characters, not 0 characters"),
        ("unique_key", 5, 5, "unique_key must be text of 1 to 256 characters, not 5"),
        (
            "unique_for_s",
            60,
            60,
            "unique_for_s and unique_states mean nothing without unique_key",
        ),
        (
            "unique_states",
            ["gone"],
            ["gone"],
            f"unique_states must be {SOME_STATES}, not gone",
        ),
        (
            "unique_states",
            "running",
            "running",
            f"unique_states must be {SOME_STATES}, not 'running'",
        ),
        ("after", [7], [7], "after must be handles of jobs, not 7; over HTTP their ids"),
        ("after", 7, 7, "after must be handles of jobs, not 7; over HTTP their ids"),
    ],
)
async def test_what_an_option_cannot_be_is_said_alike_at_every_door(
    worker: Worker, name: str, python: Any, body: Any, text: str
) -> None:
    with pytest.raises(InvalidJob) as in_python:
        worker.runtime.options(**{name: python})
    assert str(in_python.value) == text
    async with Client(worker.url) as client:
        with pytest.raises(InvalidJob) as by_client:
            client.options(**{name: python})
    assert str(by_client.value) == text
    for told in await refusals(worker, {name: body}):
        assert (told["status"], told["code"], told["detail"]) == (422, "invalid_job", text)


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        ({"max_attempts": 0}, "Retry.max_attempts must be at least 1, not 0"),
        ({"max_attempts": "3"}, "Retry.max_attempts must be at least 1, not '3'"),
        ({"max_attempts": 2.5}, "Retry.max_attempts must be a whole number, not 2.5"),
        ({"jitter": 2}, "Retry.jitter must be between 0 and 1, not 2"),
        (
            {"only_for": ["ValueError"]},
            NO_CLASSES,
        ),
        (
            {"attempts": 3},
            f"retry has no field 'attempts', only {FIELDS_OF_RETRY}",
        ),
    ],
)
async def test_a_retry_over_http_is_refused_in_words(
    worker: Worker, retry: dict[str, Any], text: str
) -> None:
    for told in await refusals(worker, {"retry": retry}):
        said = told["detail"].replace("2.0", "2")  # a whole number may come as another kind
        assert (told["status"], told["code"], said) == (422, "invalid_job", text)


async def test_a_clients_retry_cannot_name_classes() -> None:
    with pytest.raises(InvalidJob, match="only_for names classes"):
        Client("http://127.0.0.1:9").options(retry=Retry(only_for=(ValueError,)))


async def test_a_body_that_is_wrong_elsewhere_is_told_so(worker: Worker) -> None:
    for wrong, place in (({"args": {}}, "`args`"), ({"argument": 1}, "`argument`")):
        answer = await worker.ask("POST", "/v1/jobs", {"task": "add", "label": "l", **wrong})
        assert (answer.status, answer.document["code"]) == (422, "invalid_body")
        assert place in answer.document["detail"]


async def refusals(worker: Worker, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each way of sending a body answers."""
    body = body_of(options)
    packed = msgspec.msgpack.encode(body)
    lines = msgspec.json.encode(body) + b"\n"
    alone = await worker.ask("POST", "/v1/jobs", body)
    as_packed = await worker.ask(
        "POST",
        "/v1/jobs",
        data=packed,
        headers={"Content-Type": "application/msgpack", "Accept": "application/json"},
    )
    batch = await worker.ask("POST", "/v1/jobs/batch", [body])
    by_line = await worker.ask(
        "POST", "/v1/jobs/batch", data=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    item = msgspec.json.decode(by_line.text)
    return [
        alone.document,
        as_packed.document,
        batch.document[0]["problem"],
        item["problem"],
    ]


# Stores


KEPT = [option for option in OPTIONS if option.kept_as is not None]


@asynccontextmanager
async def running(store: str) -> AsyncIterator[Runtime]:
    async with Runtime([add], store=store, queues=QUEUES) as runtime:
        yield runtime


async def accepted(runtime: Runtime, name: str) -> Job:
    """A job that has the option and does not run yet. Raises Refused."""
    options = {each: given.python for each, given in with_companions(name, GIVEN[name]).items()}
    if name == "after":
        options["after"] = [await runtime.options(job_id=PARENT, **NOT_NOW).enqueue(add, 0)]
    elif name not in NOT_NOW and name != "at":
        options |= NOT_NOW
    return (await runtime.options(**options).enqueue(add, 1)).job


@pytest.mark.parametrize("option", KEPT, ids=lambda option: option.name)
async def test_a_file_keeps_every_option_that_is_kept(tmp_path: Path, option: Option) -> None:
    store = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with running(store) as runtime:
        before = await accepted(runtime, option.name)
    async with running(store) as runtime:
        after = await runtime.job(before.id)
        assert shown(after) == shown(before)
        assert shown(after).items() >= expected_of(after, {option.name: GIVEN[option.name]}).items()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
async def test_redis_keeps_or_refuses_an_option_as_declared(
    server: RedisServer, option: Option
) -> None:
    async with running(server.url) as runtime:
        if option.in_redis == "refused":
            with pytest.raises(InvalidJob, match="does not work with a Redis store"):
                await accepted(runtime, option.name)
            return
        before = await accepted(runtime, option.name)
    expected = {**shown(before), "due_at": pytest.approx(before.due_at, abs=0.01)}
    async with running(server.url) as runtime:
        assert shown(await runtime.job(before.id)) == expected


# Spellings: whoever adds an option is told here where it is missing.


def hints(options: Callable[..., Any]) -> dict[str, Any]:
    found = typing.get_type_hints(options)
    del found["return"]
    return found


@pytest.mark.parametrize("door", [Runtime.options, Client.options])
def test_python_doors_spell_every_option_as_declared(door: Callable[..., Any]) -> None:
    given = list(inspect.signature(door).parameters.values())[1:]
    assert {each.name for each in given} == set(NAMED)
    assert {each.kind for each in given} == {inspect.Parameter.KEYWORD_ONLY}
    assert {each.name: each.default for each in given} == {
        option.name: option.absent for option in OPTIONS
    }
    types = hints(door)
    assert typing.get_origin(types.pop("after")) is Sequence  # of handles, each door's own
    assert types == {name: NAMED[name].type for name in types}


def test_a_body_has_a_field_for_every_option() -> None:
    fields = {field.name: field.default for field in msgspec.structs.fields(PlainOptions)}
    assert fields == {option.wire: option.absent for option in OPTIONS}
    call = ("task", "args", "kwargs")
    assert NewJob.__struct_fields__ == (*call, *PlainOptions.__struct_fields__)


def test_a_kept_job_has_a_field_for_every_option_that_is_kept() -> None:
    assert {each.field for each in OPTIONS if each.field} | set(NOT_OFFERED) == set(
        JobOptions.__struct_fields__
    )
    assert {each.kept_as for each in OPTIONS if each.kept_as and not each.field} <= set(
        Job.__struct_fields__
    )


def test_the_stores_lack_what_is_declared() -> None:
    refused = {each.name for each in OPTIONS if each.in_redis == "refused"}
    features = {"unique_key", "key", "after"}
    assert refused & set(RedisStore.lacks) == features
    assert refused - features == {"unique_for_s", "unique_states"}  # nothing without unique_key
    assert not refused & (set(MemoryStore.lacks) | set(SqliteStore.lacks))


def test_the_page_of_options_is_the_declaration() -> None:
    page = (ROOT / "docs" / "job_options.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| `\w+` \|", line)]
    assert rows == [row_of(option) for option in OPTIONS]


def row_of(option: Option) -> str:
    cells = (
        f"`{option.name}`",
        f"`{option.wire}`",
        option.kind.words,
        option.meaning,
        f"`{(option.kept_as or '').removeprefix('options.')}`" if option.kept_as else "",
        option.in_redis,
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")
