"""Owns the process: the event loop, the signals, listening, draining, and ending on time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import NamedTuple, NoReturn

from aiohttp import web

from worker_runtime.clock.source import Clock
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.standalone.listening import bind, check_exposure, local_url_of, refusal, url_of
from worker_runtime.standalone.stop_signals import StopRequest, StopSignals
from worker_runtime.web.app import build_app, tell_listening
from worker_runtime.web.wire.connection import Runner

logger = logging.getLogger("worker_runtime.server")

# Longer than the 90 s after which Go's client lets go of a connection: the server that closes first
# may do so just when the next request comes, and a POST that is lost so is not sent again.
_KEEPALIVE_S = 100.0
_BACKLOG = 1024
# How long answers to open requests may take once the runtime has stopped.
_ANSWERS_WITHIN_S = 2.0
# On top of what running jobs get: answering, closing the store and the executors.
_ENDING_S = 5.0
_LEFTOVERS_WITHIN_S = 1.0
_YOUNG_OBJECTS_MAX = 10_000

_unfinished: set[asyncio.Task[object]] = set()  # tasks that nothing ends, kept from finalisation


def serve(
    runtime: Runtime, settings: Settings, *, on_listening: Callable[[str], None] | None = None
) -> int:
    """Serve `runtime` over HTTP until SIGTERM or SIGINT, and return the process's exit code.

    `on_listening` is called with the URL at which this machine reaches the worker. Raises
    ConfigurationError, before anything runs, for a port, host or store that cannot be used. Call
    `leave` with the code afterwards.
    """
    check_exposure(settings)
    with ExitStack() as bound:
        sockets = _bind_all(settings, bound)

        async def main(stopping: asyncio.Event) -> None:
            server = _Server(runtime, settings, sockets)
            await server.start()
            try:
                if on_listening is not None:
                    on_listening(local_url_of(sockets.api[0]))
                await stopping.wait()
            finally:
                await server.stop()

        own_process(main, settings)
    return 0


def drain(runtime: Runtime, settings: Settings) -> int:
    """Run `runtime` without listening until no job waits or runs, and return the exit code."""

    async def main(stopping: asyncio.Event) -> None:
        await runtime.start()
        idle = asyncio.ensure_future(runtime.join())
        stopped = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait((idle, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            stopped.cancel()
            await _stop_runtime(runtime, settings.stop_within_s)

    own_process(main, settings)
    return 0


def leave(code: int) -> NoReturn:
    """End the process with `code`, also while threads that nothing can end still run."""
    logging.shutdown()
    if _unfinished:
        os._exit(code)

    def end() -> None:
        time.sleep(_LEFTOVERS_WITHIN_S)
        os._exit(code)

    threading.Thread(target=end, name="worker-runtime-leaving", daemon=True).start()
    sys.exit(code)


def set_collector() -> None:
    """Set the garbage collector of a process whose runtime has just started.

    What is there now stays until the end and is not looked at again. Requests and jobs come and go
    by thousands; to look at the young ones after each 700 costs a batch a sixth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX)


class _Sockets(NamedTuple):
    """`metrics` is empty where the metrics have no port of their own."""

    api: list[socket.socket]
    metrics: list[socket.socket]


def _bind_all(settings: Settings, owner: ExitStack) -> _Sockets:
    bound = _Sockets(bind(settings.host, settings.listen_port), [])
    for each in bound.api:
        owner.enter_context(each)
    if settings.metrics_port is not None and settings.metrics_port != settings.listen_port:
        bound.metrics.extend(bind(settings.host, settings.metrics_port, option="METRICS_PORT"))
        for each in bound.metrics:
            owner.enter_context(each)
    return bound


class _Server:
    """A runtime, the HTTP application in front of it, and the sockets that it listens on."""

    def __init__(self, runtime: Runtime, settings: Settings, sockets: _Sockets) -> None:
        self._runtime = runtime
        self._settings = settings
        self._sockets = sockets
        app = build_app(runtime, settings)
        self._app = app
        self._api = _runner(app)
        self._metrics = _runner(_only_metrics(app))

    async def start(self) -> None:
        """Bring back stored jobs, and only then listen. Raises ConfigurationError."""
        await self._runtime.start()
        set_collector()
        try:
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    async def _listen(self) -> None:
        for runner, sockets, name in (
            (self._api, self._sockets.api, "listening"),
            (self._metrics, self._sockets.metrics, "metrics"),
        ):
            await runner.setup()
            for bound in sockets:
                try:
                    await web.SockSite(runner, bound, backlog=_BACKLOG).start()
                except OSError as error:  # another process listened between our bind and now
                    host, port = bound.getsockname()[:2]
                    raise refusal(host, port, error) from error
                logger.info("%s: %s on %s", self._settings.name, name, url_of(bound))
        tell_listening(self._app, local_url_of(self._sockets.api[0]))

    async def stop(self) -> None:
        """Stop the runtime while new requests are still told so, then answer and close."""
        try:
            await _stop_runtime(self._runtime, self._settings.stop_within_s)
        finally:
            await self._api.cleanup()
            await self._metrics.cleanup()


def _runner(app: web.Application) -> Runner:
    return Runner(app, keepalive_timeout=_KEEPALIVE_S, shutdown_timeout=_ANSWERS_WITHIN_S)


def _only_metrics(api: web.Application) -> web.Application:
    """The same `/metrics` as the API's, and nothing else."""
    app = web.Application()
    for route in api.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if path.startswith("/metrics") and route.method == "GET":
            app.router.add_get(path, route.handler)
    return app


async def _stop_runtime(runtime: Runtime, within_s: float) -> None:
    """Stop in two steps. Without a durable store waiting jobs would be lost, so they are run as
    long as there is time; with one they are kept, and only what runs is waited for."""
    monotonic = runtime.doorway.clock.monotonic
    began_at = monotonic()
    logger.info(
        "stopping within %g s: %d jobs run, %d wait",
        within_s,
        runtime.doorway.running_count(),
        runtime.doorway.waiting_count(),
    )
    if not runtime.doorway.keeps_jobs:
        await runtime.drain(within_s)
    left_s = max(0.0, within_s - (monotonic() - began_at))
    await runtime.stop(left_s)
    logger.info("stopped after %.1f s", monotonic() - began_at)


def own_process(main: Callable[[StopRequest], Awaitable[None]], settings: Settings) -> None:
    """Run `main` on a new event loop, with an event that is set by the first stop signal."""
    loop = _new_event_loop()
    stopping = StopRequest()
    ends_within_s = settings.stop_within_s + settings.cancel_grace_s + _ENDING_S
    with StopSignals(loop, stopping.ask, Clock(), ends_within_s=ends_within_s):
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(main(stopping))
        finally:
            _end_leftovers(loop)
            asyncio.set_event_loop(None)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        logger.info("uvloop is not installed; using asyncio's own event loop")
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _end_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel every task that is left, wait briefly, and close the loop.

    A coroutine that ignores its cancel cannot be ended; `asyncio.run` would wait for it for ever.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=_LEFTOVERS_WITHIN_S))
        if pending:
            logger.warning("%d coroutines ignore their cancel and are left behind", len(pending))
            _unfinished.update(pending)
            return
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
