"""Keeps this worker registered with its backend.

The backend may be away, forget us, come back, redirect or answer garbage, for ever: the worker
serves on meanwhile. One loop decides what to do next; everything it waits for has a deadline. It
learns that the backend is alive from the health checks that arrive, asks when none does, and
registers again when the backend does not know it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from worker_runtime.bounded_fetch import FetchFailed, fetch

logger = logging.getLogger("worker_runtime.registrar")

ANSWER_BYTES_MAX = 64 * 1024
COMPLETED_KEPT_MAX = 1000
# All results that one registration carries; what does not fit is left out, the backend can ask.
RESULTS_BYTES_MAX = 512 * 1024

_PREFIX = "/api/v1"


class RegistrarTimes(msgspec.Struct, frozen=True):
    """How long the registrar waits, in seconds. The defaults are the backend's own expectations."""

    request_timeout_s: float = 10.0
    retry_first_s: float = 1.0
    retry_max_s: float = 30.0
    check_every_s: float = 10.0
    silence_max_s: float = 30.0
    shutdown_retry_s: float = 2.0
    shutdown_watch_s: float = 120.0
    farewell_s: float = 2.0


class Identity(msgspec.Struct, frozen=True):
    """What a worker registers as. `endpoint_url` has no trailing slash: the backend appends."""

    worker_id: str
    worker_type: str
    endpoint_url: str
    capabilities: dict[str, Any]


class Registrar:
    """Registers, watches, and says goodbye.

    current     the id of the running operation, if there is one
    completion  the report of an operation that has ended, with `result` and text times
    """

    def __init__(
        self,
        backend_url: str,
        *,
        current: Callable[[], str | None],
        times: RegistrarTimes | None = None,
    ) -> None:
        self._base = base_url(backend_url)
        self._current = current
        self._times = times or RegistrarTimes()
        self._completed: deque[dict[str, Any]] = deque(maxlen=COMPLETED_KEPT_MAX)
        self._identity: Identity | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._path = f"{_PREFIX}/workers/register"
        self._heard_at: float | None = None
        self._shutdown_at: float | None = None
        self._woken = asyncio.Event()
        self.is_registered = False

    def start(self, identity: Identity) -> None:
        """Begin, once the worker listens: the backend looks back at `endpoint_url` at once."""
        self._identity = identity
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._task = asyncio.create_task(self._run(), name="registrar")

    def heard(self) -> None:
        """The backend has asked for our health, so it is there and knows us."""
        self._heard_at = time.monotonic()

    def backend_stops(self) -> None:
        """The backend has announced that it shuts down: look out for its return."""
        self._shutdown_at = time.monotonic()
        self.is_registered = False
        self._woken.set()

    def completed(self, completion: dict[str, Any]) -> None:
        """Remember an ended operation for the next registration: the backend may have missed it."""
        self._completed.append(completion)

    async def stop(self, unfinished: list[str], message: str) -> None:
        """Tell the backend about operations that this worker's end cuts short, and leave its
        registry. Best effort within a few seconds; the backend notices on its own in time."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._task = None
        assert self._session is not None
        try:
            if self.is_registered:
                async with asyncio.timeout(self._times.farewell_s):
                    await self._say_goodbye(unfinished, message)
        except TimeoutError:
            logger.warning("the backend at %s did not take our leave in time", self._base)
        finally:
            await self._session.close()

    async def _run(self) -> None:
        await self._register()
        while True:
            await self._wait(self._times.check_every_s)
            try:
                if self._shutdown_at is not None:
                    await self._await_return()
                elif not await self._is_known():
                    await self._register()
            except Exception:  # a defect here must not cost the worker its place in the fleet
                logger.exception("the registration could not be kept up")

    async def _register(self) -> None:
        """Try until it succeeds, with growing and jittered waits."""
        wait_s = self._times.retry_first_s
        while not await self._try_register():
            await self._wait(wait_s * random.uniform(0.75, 1.25))
            wait_s = min(self._times.retry_max_s, wait_s * 2)

    async def _await_return(self) -> None:
        """After a shutdown that was announced the backend is usually back within two minutes."""
        assert self._shutdown_at is not None
        until = self._shutdown_at + self._times.shutdown_watch_s
        self._shutdown_at = None
        while time.monotonic() < until:
            await asyncio.sleep(self._times.shutdown_retry_s * random.uniform(0.75, 1.25))
            if await self._try_register():
                return
        await self._register()

    async def _try_register(self) -> bool:
        assert self._identity is not None
        reported = list(self._completed)
        body = {
            **msgspec.structs.asdict(self._identity),
            "current_operation_id": self._current(),
            "completed_operations": _within(reported, RESULTS_BYTES_MAX),
        }
        logger.info("Registering worker with backend at %s", self._base)
        try:
            status, text = await self._post_registration(body)
        except FetchFailed as failure:
            logger.warning("registration with %s failed: %s", self._base, failure)
            return False
        if not 200 <= status < 300:
            logger.warning("registration with %s was answered %d: %s", self._base, status, text)
            return False
        for completion in reported:
            if completion in self._completed:
                self._completed.remove(completion)
        self.is_registered = True
        self._shutdown_at = None
        self.heard()
        logger.info("Worker registered successfully as %s", self._identity.worker_id)
        return True

    async def _post_registration(self, body: dict[str, Any]) -> tuple[int, str]:
        """The answer to the registration, at the path where this backend takes it."""
        answer = await self._request("POST", self._path, body)
        if answer[0] == 404:
            other = (
                "/workers/register" if self._path.startswith(_PREFIX) else f"{_PREFIX}{self._path}"
            )
            second = await self._request("POST", other, body)
            if second[0] != 404:
                self._path = other
                return second
        return answer

    async def _is_known(self) -> bool:
        """Whether the backend still has us. Not being able to ask counts as yes: it is not gone
        because it is slow."""
        silent = self._heard_at is None or (
            time.monotonic() - self._heard_at > self._times.silence_max_s
        )
        if not silent and self.is_registered:
            return True
        assert self._identity is not None
        try:
            path = f"{_PREFIX}/workers/{self._identity.worker_id}"
            status, text = await self._request("GET", path)
        except FetchFailed as failure:
            logger.warning("the backend at %s does not answer: %s", self._base, failure)
            self.heard()
            return True
        if status == 404:
            logger.warning("the backend at %s does not know this worker any more", self._base)
            self.is_registered = False
            return False
        if status != 200:
            logger.warning("the backend at %s answered %d: %s", self._base, status, text)
        self.heard()
        return True

    async def _say_goodbye(self, unfinished: list[str], message: str) -> None:
        assert self._identity is not None
        for operation_id in unfinished:
            body = {"status": "CANCELLED", "error_message": message}
            await self._try("PATCH", f"{_PREFIX}/operations/{operation_id}/status", body)
        # Only some backends have this; the others notice at the next health check.
        await self._try("DELETE", f"{_PREFIX}/workers/{self._identity.worker_id}")

    async def _try(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        try:
            status, _ = await self._request(method, path, body)
            logger.info("%s %s%s: %d", method, self._base, path, status)
        except FetchFailed as failure:
            logger.info("%s %s%s: %s", method, self._base, path, failure)

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, str]:
        assert self._session is not None
        answer = await fetch(
            self._session,
            method,
            f"{self._base}{path}",
            json=body,
            timeout_s=self._times.request_timeout_s,
            bytes_max=ANSWER_BYTES_MAX,
        )
        return answer.status, answer.text()

    async def _wait(self, seconds: float) -> None:
        """Sleep, unless something happens that has to be looked at now."""
        self._woken.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


def base_url(backend_url: str) -> str:
    """The backend's address without a trailing slash and without the API's own prefix."""
    return backend_url.rstrip("/").removesuffix(_PREFIX).rstrip("/")


def _within(completions: list[dict[str, Any]], bytes_max: int) -> list[dict[str, Any]]:
    """The completions, newest ones' results first to keep; those that do not fit lose theirs."""
    left = bytes_max
    shown: list[dict[str, Any]] = []
    for completion in reversed(completions):
        size = len(msgspec.json.encode(completion["result"]))
        if size <= left:
            left -= size
            shown.append(completion)
        else:
            shown.append({**completion, "result": None})
    shown.reverse()
    return shown
