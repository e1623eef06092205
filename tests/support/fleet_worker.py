"""A worker of the fleets in the test's own process, on a port of its own, spoken to over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from worker_runtime import Runtime, Settings
from worker_runtime.stores.boundary import Store
from worker_runtime.web import build_app
from worker_runtime.web.app import tell_listening
from worker_runtime.web.wire.connection import Runner


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str
    document: Any


class Worker(NamedTuple):
    """`url` has no trailing slash."""

    runtime: Runtime
    url: str
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, json: Any = None, **options: Any) -> Answer:
        """One request and its whole answer; `document` is None where it is not JSON."""
        if json is not None:
            options["json"] = json
        async with self.http.request(method, f"{self.url}{path}", **options) as response:
            text = await response.text()
            kind = response.headers.get("Content-Type", "").partition(";")[0]
            is_json = kind.endswith(("/json", "+json"))
            document = await response.json(content_type=None) if is_json else None
            return Answer(response.status, response.headers.copy(), text, document)


@asynccontextmanager
async def serving(
    *tasks: Callable[..., Any],
    registers: bool = False,
    kept_in: Store | None = None,
    **settings: Any,
) -> AsyncIterator[Worker]:
    """A worker with these tasks. `registers`: it tells its backend that it listens. `kept_in`: its
    store, instead of the one that the settings name."""
    read = Settings.from_environment({}, **settings)
    async with (
        Runtime(tasks, settings=read, store=kept_in) as runtime,
        served(runtime, registers=registers) as worker,
    ):
        yield worker


@asynccontextmanager
async def served(runtime: Runtime, *, registers: bool = False) -> AsyncIterator[Worker]:
    """A runtime that was started, over HTTP."""
    app = build_app(runtime, runtime.settings)
    runner = Runner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        if registers:
            tell_listening(app, url)
        async with aiohttp.ClientSession() as http:
            yield Worker(runtime, url, http)
    finally:
        await runner.cleanup()
