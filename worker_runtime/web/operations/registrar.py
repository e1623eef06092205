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
from collections import deque
from collections.abc import Callable
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec.structs import replace

from worker_runtime.clock.source import Clock
from worker_runtime.contracts.domains import API_PREFIX, base_url
from worker_runtime.contracts.fetch import FetchFailed, fetch
from worker_runtime.contracts.registration import (
    COMPLETED_MAX,
    CompletedOperation,
    Registration,
    StatusChange,
)
from worker_runtime.model.bounded import masked

logger = logging.getLogger("worker_runtime.registrar")

ANSWER_BYTES_MAX = 64 * 1024
# All results that one registration carries; what does not fit is left out, the backend can ask.
RESULTS_BYTES_MAX = 512 * 1024
ERROR_CHARS_MAX = 1000
REFUSAL_CHARS_MAX = 1000


class RegistrarTimes(msgspec.Struct, frozen=True):
    """How long the registrar waits, in seconds. The defaults are the backend's own expectations.

    silence_max_s  without a health check for so long, the backend is asked whether it knows us
    ask_every_s    it is asked all the same: not only a backend looks at a worker's health
    """

    request_timeout_s: float = 10.0
    retry_first_s: float = 1.0
    retry_max_s: float = 30.0
    check_every_s: float = 10.0
    silence_max_s: float = 30.0
    ask_every_s: float = 60.0
    shutdown_retry_s: float = 2.0
    shutdown_watch_s: float = 120.0
    farewell_s: float = 2.0


class _Report:
    """An ended operation, its error shortened, and the bytes that its result takes."""

    __slots__ = ("completion", "result_bytes")

    def __init__(self, completion: CompletedOperation) -> None:
        error = completion.error_message
        self.completion = replace(completion, error_message=error and error[:ERROR_CHARS_MAX])
        self.result_bytes = 0
        if completion.result is not None:
            self.result_bytes = len(msgspec.json.encode(completion.result))

    def drop_result(self) -> None:
        self.completion = replace(self.completion, result=None)
        self.result_bytes = 0


class Registrar:
    """Registers, watches, and says goodbye.

    current  the id of the running operation, if there is one
    """

    def __init__(
        self,
        backend_url: str,
        clock: Clock,
        *,
        current: Callable[[], str | None],
        times: RegistrarTimes | None = None,
    ) -> None:
        self._base = base_url(backend_url)
        self._shown = masked(self._base)
        self._monotonic = clock.monotonic
        self._current = current
        self._times = times or RegistrarTimes()
        self._completed: deque[_Report] = deque(maxlen=COMPLETED_MAX)
        self._worker: Registration | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._prefix = API_PREFIX  # or nothing, where the backend has its registry at the root
        self._heard_at: float | None = None
        self._asked_at = 0.0
        self._shutdown_at: float | None = None
        self._woken = asyncio.Event()
        self.is_registered = False

    def start(self, worker: Registration) -> None:
        """Begin, once the worker listens: the backend looks back at `endpoint_url` at once. What
        changes, the current operation and those that ended, is filled in each time."""
        self._worker = worker
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._task = asyncio.create_task(self._run(), name="registrar")

    def heard(self) -> None:
        """The backend has asked for our health, so it is there and knows us."""
        self._heard_at = self._monotonic()

    def backend_stops(self) -> None:
        """The backend has announced that it shuts down: look out for its return."""
        self._shutdown_at = self._monotonic()
        self.is_registered = False
        self._woken.set()

    def completed(self, completion: CompletedOperation) -> None:
        """Remember an ended operation for the next registration: the backend may have missed it.
        Of the results only the newest are kept, as many as one registration carries."""
        self._completed.append(_Report(completion))
        excess = sum(report.result_bytes for report in self._completed) - RESULTS_BYTES_MAX
        for report in self._completed:
            if excess <= 0:
                break
            excess -= report.result_bytes
            report.drop_result()

    async def stop(self, unfinished: list[str], message: str, *, reports: bool = False) -> None:
        """Tell the backend about operations that this worker's end cuts short and, with `reports`,
        about those that ended meanwhile, and leave its registry. Best effort within a few seconds;
        the backend notices on its own in time."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._task = None
        assert self._session is not None
        try:
            if self.is_registered:
                async with asyncio.timeout(self._times.farewell_s):
                    await self._say_goodbye(unfinished, message, reports=reports)
        except TimeoutError:
            logger.warning("the backend at %s did not take our leave in time", self._shown)
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
        while self._monotonic() < until:
            await asyncio.sleep(self._times.shutdown_retry_s * random.uniform(0.75, 1.25))
            if await self._try_register():
                return
        await self._register()

    async def _try_register(self) -> bool:
        return await self._report(self._current())

    async def _report(self, current: str | None) -> bool:
        """Register, with what has ended since the last time. Whether the backend took it."""
        assert self._worker is not None
        reported = list(self._completed)
        logger.info("Registering worker with backend at %s", self._shown)
        status = await self._offer(current, reported)
        if reported and status is not None and _is_refusal(status):
            # One report that it cannot store must not keep this worker out for ever.
            status = await self._offer(current, [])
            if status is not None and 200 <= status < 300:
                logger.warning("the backend took no reports of %d ended operations", len(reported))
        if status is None or not 200 <= status < 300:
            return False
        for report in reported:
            if report in self._completed:
                self._completed.remove(report)
        self.is_registered = True
        self._shutdown_at = None
        self._asked_at = self._monotonic()
        logger.info("Worker registered successfully as %s", self._worker.worker_id)
        return True

    async def _offer(self, current: str | None, reported: list[_Report]) -> int | None:
        """The status that one registration was answered with; None: it was not answered."""
        assert self._worker is not None
        completed = [report.completion for report in reported]
        body = replace(self._worker, current_operation_id=current, completed_operations=completed)
        try:
            status, text = await self._post_registration(body)
        except FetchFailed as failure:
            logger.warning("registration with %s failed: %s", self._shown, failure)
            return None
        if not 200 <= status < 300:
            logger.warning("registration with %s was answered %d: %s", self._shown, status, text)
        return status

    async def _post_registration(self, body: Registration) -> tuple[int, str]:
        """The answer to the registration, at the path where this backend takes it."""
        answer = await self._request("POST", f"{self._prefix}/workers/register", body)
        if answer[0] == 404:
            other = "" if self._prefix else API_PREFIX
            second = await self._request("POST", f"{other}/workers/register", body)
            if second[0] != 404:
                self._prefix = other
                return second
        return answer

    async def _is_known(self) -> bool:
        """Whether the backend still has us. Not being able to ask counts as yes: it is not gone
        because it is slow."""
        now = self._monotonic()
        is_silent = self._heard_at is None or now - self._heard_at > self._times.silence_max_s
        is_due = now - self._asked_at > self._times.ask_every_s
        if self.is_registered and not is_silent and not is_due:
            return True
        self._asked_at = now
        try:
            status, text = await self._request("GET", self._own_path())
        except FetchFailed as failure:
            logger.warning("the backend at %s does not answer: %s", self._shown, failure)
            self.heard()
            return True
        if status == 404:
            logger.warning("the backend at %s does not know this worker any more", self._shown)
            self.is_registered = False
            return False
        if status != 200:
            logger.warning("the backend at %s answered %d: %s", self._shown, status, text)
        self.heard()
        return True

    async def _say_goodbye(self, unfinished: list[str], message: str, *, reports: bool) -> None:
        for operation_id in unfinished:
            change = StatusChange("CANCELLED", message)
            await self._try("PATCH", f"{self._prefix}/operations/{operation_id}/status", change)
        if reports:  # there is no other way to hand in a result
            await self._report(None)
        # Only some backends have this; the others notice at the next health check.
        await self._try("DELETE", self._own_path())

    def _own_path(self) -> str:
        assert self._worker is not None
        return f"{self._prefix}/workers/{quote(self._worker.worker_id, safe='')}"

    async def _try(self, method: str, path: str, body: StatusChange | None = None) -> None:
        try:
            status, _ = await self._request(method, path, body)
            logger.info("%s %s%s: %d", method, self._shown, path, status)
        except FetchFailed as failure:
            logger.info("%s %s%s: %s", method, self._shown, path, failure)

    async def _request(
        self, method: str, path: str, body: msgspec.Struct | None = None
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
        return answer.status, answer.text(REFUSAL_CHARS_MAX)

    async def _wait(self, seconds: float) -> None:
        """Sleep, unless something happens that has to be looked at now."""
        self._woken.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


def _is_refusal(status: int) -> bool:
    """Whether a backend that is there and has time refused what it was sent."""
    return status >= 400 and status not in (404, 408, 429, 502, 503, 504)
