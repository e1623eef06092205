"""The page of arq's wire: its records are compared with what stands in a real Redis, its tables
with the keys that are used, the settings class and the context of a function."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.helpers import ROOT, eventually
from tests.support.pages import (
    blocks_in,
    differences,
    is_of,
    names_in,
    sections_of,
    tables_in,
)
from tests.support.redis_server import RedisServer
from worker_runtime import Retry, Runtime, task
from worker_runtime.arq import RedisSettings, create_pool
from worker_runtime.arq.settings import ArqSettings
from worker_runtime.arq.worker import ArqWorker
from worker_runtime.model.activity import Failure
from worker_runtime.stores.redis.manner import queue_key
from worker_runtime.stores.redis.wire import layout
from worker_runtime.stores.redis.wire.records import priority_keys

PAGE = (ROOT / "docs" / "contracts" / "arq.md").read_text()
SECTIONS = dict(sections_of(PAGE))
go_on = asyncio.Event()


@task
async def download(url: str, *, depth: int = 1) -> str:
    await go_on.wait()
    return "200 OK"


@task
async def broken() -> None:
    raise ValueError("no")


@pytest.fixture
async def runtime(server: RedisServer) -> AsyncIterator[Runtime]:
    global go_on
    go_on = asyncio.Event()
    async with Runtime([download, broken], store=f"{server.url}?serializer=json") as started:
        yield started


def stored(server: RedisServer, key: str) -> Any:
    with server.client() as client:
        found: Any = client.get(key)
        return None if found is None else msgspec.json.decode(found)


def written(section: str) -> list[Any]:
    return [msgspec.json.decode(block) for block in blocks_in(SECTIONS[section], "json")]


async def test_a_job_is_stored_as_the_page_says(server: RedisServer, runtime: Runtime) -> None:
    plain, with_options = written("The job")
    later = runtime.options(delay_s=60)
    job = await later.enqueue(download, "http://example.com/a", depth=2)
    assert differences(plain, stored(server, f"arq:job:{job.id}")) == []
    own = runtime.options(
        delay_s=60, timeout_s=20, expires_s=500, label="nightly", retry=Retry(max_attempts=2)
    )
    job = await own.enqueue(download, "http://example.com/a")
    assert differences(with_options, stored(server, f"arq:job:{job.id}")) == []


async def test_a_result_is_stored_as_the_page_says(server: RedisServer, runtime: Runtime) -> None:
    succeeded, failed = written("The result")
    go_on.set()
    job = await runtime.enqueue(download, "http://example.com/a", depth=2)
    result = await eventually(lambda: stored(server, f"arq:result:{job.id}"))
    assert differences(succeeded, result) == []
    job_2 = await runtime.enqueue(broken)
    result = await eventually(lambda: stored(server, f"arq:result:{job_2.id}"))
    assert differences(failed, result) == []


async def test_the_keys_of_a_running_job_are_those_of_the_page(
    server: RedisServer, runtime: Runtime
) -> None:
    job = await runtime.enqueue(download, "http://example.com/a")
    with server.client() as client:
        lease: Any = await eventually(lambda: client.get(f"arq:in-progress:{job.id}"))
        assert re.fullmatch(r"[^:]+:\d+:[0-9a-f]+:\d+", lease.decode())
        assert 0 < client.pttl(f"arq:in-progress:{job.id}") <= 20_000
        assert client.get(f"arq:retry:{job.id}") == b"1"
        assert client.zscore("arq:queue", job.id) is not None  # while it runs, too
        health: Any = client.get("arq:queue:health-check")
    assert _without_numbers(health.decode()) == _without_numbers(
        blocks_in(SECTIONS["The health key"], "text")[0]
    )
    go_on.set()
    await job.result(timeout_s=20)


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "0", re.sub(r"^\w{3}-", "", text.strip()))


def test_a_queue_has_the_keys_that_the_page_names() -> None:
    named = re.findall(r"`(arq:queue:mail[:\w]*)`", SECTIONS["Keys"])
    assert set(named) == {key for _, key in priority_keys(queue_key("mail"))}


# Tables


def test_every_field_of_a_record_is_explained() -> None:
    for section in ("The job", "The result"):
        examples = written(section)
        for table in tables_in(SECTIONS[section]):
            if not table[0][0].startswith("field"):
                continue
            inside = names_in(table[0][0])
            found = [one.get("x", {}) for one in examples] if inside else examples
            explained = {names_in(row[0])[0]: row[1] for row in table[1:]}
            assert {name for one in found for name in one} <= explained.keys() | OPTIONS
            for name, kind in explained.items():
                values = [one[name] for one in found if name in one]
                assert all(is_of(kind, value) for value in values), name


# Named in a sentence, not in the table.
OPTIONS = frozenset({"timeout_s", "retry", "expires_at", "label"})


def test_what_a_failure_says_is_all_in_the_table() -> None:
    [table] = [t for t in tables_in(SECTIONS["The result"]) if t[0][0] == "field of `x`"]
    named = {names_in(row[0])[0] for row in table[1:]}
    assert named == {*Failure.__struct_fields__, "sent"}


def test_every_key_is_on_the_page() -> None:
    source = "".join(path.read_text() for path in _files_of_the_store())
    used = set(re.findall(r"""["'](arq:[a-z-]+|worker[-_]runtime:[a-z]+):?["'{]""", source))
    tables = [t for t in tables_in(PAGE) if t[0][0] == "key" and t[0][-1] == "expires"]
    named = {names_in(row[0])[0] for table in tables for row in table[1:]}
    assert used == {re.sub(r":?\{\w+\}$", "", key) for key in named if not key.startswith("{")}
    assert f"{{queue}}{layout.HEALTH_SUFFIX}" in named


def _files_of_the_store() -> list[Path]:
    folder = ROOT / "worker_runtime" / "stores" / "redis"
    return [*folder.rglob("*.py"), *folder.rglob("*.lua")]


def test_the_settings_class_is_that_of_the_page() -> None:
    [table] = tables_in(SECTIONS["The settings class"])
    named = {name: row[1].strip("`") for row in table[1:] for name in names_in(row[0])}
    fields = {field.name: field for field in msgspec.structs.fields(ArqSettings)}
    ours = {"cron_jobs": "crons", "redis_settings": "redis"}
    assert {ours.get(name, name) for name in named} == fields.keys()
    for name, default in named.items():
        real = fields[ours.get(name, name)].default
        if name not in ("functions", "cron_jobs", "redis_settings", "ctx"):
            assert default == str(real), name


async def test_the_context_of_a_function_is_that_of_the_page(server: RedisServer) -> None:
    seen: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def look(ctx: dict[str, Any]) -> None:
        seen.set_result(ctx)

    settings = {"functions": [look], "redis_settings": RedisSettings(port=server.port)}
    pool = await create_pool(settings["redis_settings"])
    async with ArqWorker(settings):
        await pool.enqueue_job(look.__qualname__)
        context = await asyncio.wait_for(seen, 20)
    await pool.aclose()
    [table] = tables_in(SECTIONS["Run"])
    assert {names_in(row[0])[0] for row in table[1:]} == context.keys()
    kinds = {names_in(row[0])[0]: row[1] for row in table[1:]}
    words = {"text": "str", "whole number": "int"}
    for name, kind in kinds.items():
        assert type(context[name]).__name__ == words.get(kind, kind), name
