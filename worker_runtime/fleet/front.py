"""The front itself: what a backend asks it, and how it asks its workers.

It knows who registered, asks for their health, chooses one for each operation and passes on what is
asked about it. It queues nothing and keeps nothing that its workers do not have: after a restart
they register again and it finds their operations by asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.contracts.domains import type_of
from worker_runtime.contracts.fetch import Fetched, FetchFailed, fetch
from worker_runtime.contracts.registration import CompletedOperation, Registration
from worker_runtime.errors import WorkerRuntimeError
from worker_runtime.fleet.chooser import Chooser, Policy
from worker_runtime.fleet.members import Member, Members, Status

T = TypeVar("T")

logger = logging.getLogger("worker_runtime.fleet")

TRIES_MAX = 3
HEALTH_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 4 << 20
_REMEMBERED_MAX = 10_000


class FleetError(WorkerRuntimeError):
    """The fleet cannot do what was asked; `status` is the HTTP status that says so, `document` the
    worker's own answer where it was a worker that refused."""

    def __init__(self, status: int, message: str, document: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = document


class FleetSettings(msgspec.Struct, frozen=True):
    """`check_*`, `failures_max` and `removal_s` as the guide's backend has them; times in seconds.

    token  sent to workers as a bearer token
    """

    policy: Policy = "least_load"
    check_every_s: float = 10.0
    check_timeout_s: float = 5.0
    failures_max: int = 3
    removal_s: float = 300.0
    request_timeout_s: float = 30.0
    cache_ttl_s: float = 1.0
    token: str | None = None


class Fleet:
    """Use it as `async with Fleet() as fleet`, or mount it: `mount(app, fleet)`.

    urls          workers that do not register
    on_completed  called for each operation that a worker reports as ended when it registers
    """

    def __init__(
        self,
        urls: Iterable[str] = (),
        *,
        settings: FleetSettings | None = None,
        on_completed: Callable[[CompletedOperation], None] | None = None,
    ) -> None:
        self.settings = settings or FleetSettings()
        self.clock = Clock()
        self.members = Members(
            self.clock,
            failures_max=self.settings.failures_max,
            removal_s=self.settings.removal_s,
        )
        for url in urls:
            self.members.add_fixed(url)
        self._chooser = Chooser(self.settings.policy)
        self._on_completed = on_completed
        self._session: aiohttp.ClientSession | None = None
        self._watch: asyncio.Task[None] | None = None
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._answers: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._completions: OrderedDict[str, CompletedOperation] = OrderedDict()
        self.is_stopping = False

    async def __aenter__(self) -> Fleet:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to look at the workers' health, each `check_every_s` seconds."""
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._watch = asyncio.create_task(self._keep_checking(), name="fleet-health")

    async def stop(self, *, announce: bool = False) -> None:
        """End. `announce` tells every worker that it will not be asked for a while."""
        self.is_stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait((self._watch,))
        if announce:
            message = {"message": "Backend shutting down"}
            await self._each(
                self._tell(member, "POST", "/backend-shutdown", message, timeout_s=2.0)
                for member in self.members
            )
        if self._session is not None:
            await self._session.close()

    # The registry

    def register(self, given: Registration) -> Member:
        """Take a worker in, and what it ended meanwhile. Raises FleetError."""
        if self.is_stopping:
            raise FleetError(503, "Backend is shutting down - retry after restart")
        member = self.members.register(given)
        if member is None:
            raise FleetError(503, "the registry is full")
        logger.info("Worker registered: %s (%s)", member.id, member.url)
        if given.current_operation_id is not None:
            _remember(self._homes, given.current_operation_id, member.id)
        for completion in given.completed_operations:
            self.complete(completion)
        return member

    def complete(self, completion: CompletedOperation) -> None:
        """Keep the end of an operation that its worker may not remember. The first report counts:
        an end does not change."""
        if completion.operation_id in self._completions:
            return
        _remember(self._completions, completion.operation_id, completion)
        self._answers.pop(completion.operation_id, None)
        if self._on_completed is not None:
            self._on_completed(completion)

    def remove(self, worker_id: str) -> bool:
        """Forget a worker that has said goodbye."""
        return self.members.remove(worker_id)

    # Health

    async def check_all(self) -> None:
        """Ask every worker for its health, all at the same time."""
        await self._each(self._check(member) for member in self.members)

    async def _keep_checking(self) -> None:
        while True:
            try:
                await self.check_all()
            except Exception:  # one worker's worst answer must not end the watch over all
                logger.exception("the workers' health could not be checked")
            await asyncio.sleep(self.settings.check_every_s)

    async def _check(self, member: Member) -> None:
        timeout_s = self.settings.check_timeout_s
        began_at = self.clock.monotonic()
        try:
            answer = await self._ask(
                member, "GET", "/health", timeout_s=timeout_s, bytes_max=HEALTH_BYTES_MAX
            )
            health = answer.json() if answer.status == 200 else None
        except FetchFailed as failure:
            self._failed(member, str(failure))
            return
        if not isinstance(health, dict):
            self._failed(member, f"answered {answer.status}: {answer.text()}")
            return
        member.latency_s = self.clock.monotonic() - began_at
        self.members.healthy(member, health)

    def _failed(self, member: Member, text: str) -> None:
        self.members.failed(member, text)
        logger.warning("Health check failed: %s (%d): %s", member.id, member.failures, text)

    # Operations

    async def start_operation(
        self, domain: str, request: dict[str, Any], *, worker_type: str | None = None
    ) -> dict[str, Any]:
        """Start an operation on a worker of the domain, and return the worker's answer.

        A busy worker (503), one that cannot be connected to, or one given by its URL alone that
        does not have the domain, is passed over for another, at most three in all. Raises
        FleetError: 503 where no worker takes it, 504 where one may have.
        """
        operation_id = request.get("task_id") or f"op_{secrets.token_hex(8)}"
        body = {**request, "task_id": operation_id}
        kind = worker_type or type_of(domain)
        tried: list[str] = []
        refusal: str | None = None
        while len(tried) < TRIES_MAX:
            fitting = (m for m in self.members if m.serves(kind, domain))
            member = self._chooser.choose(fitting, tried)
            if member is None:
                break
            tried.append(member.id)
            answer = await self._offer(member, f"/{domain}/start", body)
            refusal = _passed_over(member, answer)
            if answer is None or refusal is not None:
                continue
            started = self._started(member, answer)
            member.status = Status.BUSY
            member.current_operation_id = started["operation_id"]
            _remember(self._homes, started["operation_id"], member.id)
            logger.info("Selected worker: %s for %s", member.id, operation_id)
            return started
        raise FleetError(503, f"No workers available for {domain}: {refusal or 'none registered'}")

    async def _offer(self, member: Member, path: str, body: dict[str, Any]) -> Fetched | None:
        """The worker's answer; None where the request cannot have reached it."""
        try:
            answer = await self._ask(member, "POST", path, body)
        except FetchFailed as failure:
            if not failure.was_sent:
                self._failed(member, str(failure))
                return None
            raise FleetError(504, f"{member.id} did not answer: {failure}") from None
        if answer.status == 503:
            member.status = Status.BUSY
        return answer

    def _started(self, member: Member, answer: Fetched) -> dict[str, Any]:
        document = _json_or_none(answer)
        if not 200 <= answer.status < 300:
            raise FleetError(answer.status, _sentence(document, answer), document)
        found = document.get("operation_id") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(found, str) or not found:
            raise FleetError(502, f"{member.id} started something without an operation_id")
        return document

    async def operation(self, operation_id: str, *, force_refresh: bool = False) -> dict[str, Any]:
        """The operation as its worker describes it, at most `cache_ttl_s` old. Raises FleetError:
        404 where no worker knows it, 502 where its worker cannot be asked."""
        cached = self._answers.get(operation_id)
        ttl_s = self.settings.cache_ttl_s
        if cached is not None and not force_refresh and self.clock.monotonic() - cached[0] < ttl_s:
            found: dict[str, Any] = cached[1]
            return found
        try:
            document = await self._ask_home(operation_id, "GET", "/api/v1/operations/{}")
        except FleetError as error:
            completion = self._completions.get(operation_id)
            if completion is None or error.status not in (404, 502):
                raise
            document = completion.document()
        _remember(self._answers, operation_id, (self.clock.monotonic(), document))
        return document

    async def operation_metrics(self, operation_id: str, cursor: int = 0) -> dict[str, Any]:
        """Metrics from `cursor` on; `new_cursor` continues after them. Raises FleetError."""
        path = f"/api/v1/operations/{{}}/metrics?cursor={cursor:d}"
        return await self._ask_home(operation_id, "GET", path)

    async def cancel_operation(self, operation_id: str, reason: str = "") -> dict[str, Any]:
        """Cancel it on its worker; the worker's answer. Raises FleetError."""
        self._answers.pop(operation_id, None)
        query = f"?reason={quote(reason)}" if reason else ""
        return await self._ask_home(
            operation_id, "DELETE", f"/api/v1/operations/{{}}/cancel{query}"
        )

    async def _ask_home(self, operation_id: str, method: str, path: str) -> dict[str, Any]:
        """The unwrapped `data` of the worker that has the operation, found by asking around where
        it is not remembered."""
        path = path.format(quote(operation_id, safe=""))
        member = self.members.get(self._homes.get(operation_id, ""))
        if member is None:
            member = await self._find_home(operation_id)
        try:
            answer = await self._ask(member, method, path)
        except FetchFailed as failure:
            raise FleetError(502, f"{member.id} cannot be asked: {failure}") from None
        if answer.status == 404:
            self._homes.pop(operation_id, None)
            raise FleetError(404, f"Operation not found: {operation_id}")
        document = _json_or_none(answer)
        if answer.status >= 400:
            raise FleetError(answer.status, _sentence(document, answer), document)
        data = document.get("data", document) if isinstance(document, dict) else None
        if not isinstance(data, dict):
            raise FleetError(502, f"{member.id} answered what is not an operation")
        return data

    async def _find_home(self, operation_id: str) -> Member:
        path = f"/api/v1/operations/{quote(operation_id, safe='')}"

        async def has_it(member: Member) -> Member | None:
            with contextlib.suppress(FetchFailed):
                answer = await self._ask(
                    member, "GET", path, timeout_s=self.settings.check_timeout_s
                )
                return member if answer.status == 200 else None
            return None

        reachable = [m for m in self.members if m.status is not Status.TEMPORARILY_UNAVAILABLE]
        for member in await self._each(has_it(member) for member in reachable):
            if member is not None:
                _remember(self._homes, operation_id, member.id)
                return member
        raise FleetError(404, f"Operation not found: {operation_id}")

    # Talking to workers

    async def _ask(
        self,
        member: Member,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout_s: float | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Fetched:
        assert self._session is not None, "start the fleet first"
        member.in_flight += 1
        try:
            return await fetch(
                self._session,
                method,
                f"{member.url}{path}",
                json=body,
                timeout_s=timeout_s or self.settings.request_timeout_s,
                bytes_max=bytes_max,
                token=self.settings.token,
            )
        finally:
            member.in_flight -= 1

    async def _tell(
        self, member: Member, method: str, path: str, body: Any, *, timeout_s: float
    ) -> None:
        with contextlib.suppress(FetchFailed):
            await self._ask(member, method, path, body, timeout_s=timeout_s)

    async def _each(self, calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        return await asyncio.gather(*calls)


def _remember(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _REMEMBERED_MAX:
        kept.popitem(last=False)


def _json_or_none(answer: Fetched) -> Any:
    try:
        return answer.json()
    except FetchFailed:
        return None


def _passed_over(member: Member, answer: Fetched | None) -> str | None:
    """Why another worker is asked; None where this one's answer is the answer."""
    if answer is None:
        return f"{member.id} cannot be reached"
    if answer.status == 503:
        return f"{member.id} is busy"
    if answer.status == 404 and member.is_fixed:
        return f"{member.id} does not have this domain"
    return None


def _sentence(document: Any, answer: Fetched) -> str:
    """What to show of a refusal: its `detail` where that is text, else `message`, else the body."""
    if isinstance(document, dict):
        for name in ("detail", "message"):
            if isinstance(document.get(name), str):
                return str(document[name])
    return answer.text() or f"answered {answer.status}"
