"""A client of a worker's native API, typed by the tasks it calls.

Every job gets its id here, so that a request whose answer was lost can be sent again: the same id
is the same job. Connection failures, 502, 503 and 504 are retried within bounds.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from worker_runtime.client.answers import (
    WorkerUnreachable,
    decode,
    encoded,
    error_of,
    result_type,
    retry_after_s,
)
from worker_runtime.clock.source import Clock
from worker_runtime.contracts.fetch import Fetched, FetchFailed, fetch
from worker_runtime.contracts.job_documents import JobSnapshot, NewJob, SnapshotPage
from worker_runtime.errors import JobCancelled, JobFailed, WorkerRuntimeError
from worker_runtime.model.context import JobContext
from worker_runtime.model.figures import RuntimeStatistics
from worker_runtime.model.job_id import JobIds
from worker_runtime.model.snapshot import QueueInfo
from worker_runtime.model.states import COMPLETED, FAILED, Priority, Reason, State
from worker_runtime.model.tasks.definition import name_of
from worker_runtime.model.tasks.options import as_plain
from worker_runtime.model.tasks.policy import Retry

__all__ = ["Client", "ConfiguredClient", "RemoteJob", "Retries", "WorkerUnreachable"]

P = ParamSpec("P")
R = TypeVar("R")
TaskRef = Callable[..., Any] | str

ANSWER_BYTES_MAX = 64 << 20
_LONG_POLL_S = 20.0
_RETRIED = frozenset({502, 503, 504})


class Retries(msgspec.Struct, frozen=True):
    """How often a request is sent at most, and how long is waited in between: doubling from
    `delay_s` to `delay_max_s`, or what the worker's Retry-After says within that bound."""

    attempts: int = 5
    delay_s: float = 0.2
    delay_max_s: float = 5.0


class Client:
    """Use it as `async with Client("http://127.0.0.1:8080") as client`.

    url        the worker's, without `/v1`
    token      sent as a bearer token
    timeout_s  for one request; waiting for a job takes as many as it needs
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        prefix: str = "/v1",
    ) -> None:
        self._base = url.rstrip("/") + prefix
        self._token = token
        self._timeout_s = timeout_s
        self._retries = retries or Retries()
        self._clock = Clock()
        self._ids = JobIds()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @overload
    async def enqueue(
        self,
        task: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> RemoteJob[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteJob[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[Concatenate[JobContext, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteJob[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteJob[R]: ...
    @overload
    async def enqueue(self, task: str, /, *args: Any, **kwargs: Any) -> RemoteJob[Any]: ...
    async def enqueue(self, task: TaskRef, /, *args: Any, **kwargs: Any) -> RemoteJob[Any]:
        """Have the worker run `task(*args, **kwargs)`; once this returns it is accepted there.

        Raises what an embedded runtime would (Refused and its kinds), or WorkerUnreachable.
        """
        return await self._enqueue({}, task, args, kwargs)

    def options(
        self,
        *,
        job_id: str | None = None,
        queue: str | None = None,
        priority: Priority | None = None,
        delay_s: float | None = None,
        at: datetime | None = None,
        timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        retry: Retry | msgspec.UnsetType | None = msgspec.UNSET,
        result_ttl_s: float | msgspec.UnsetType = msgspec.UNSET,
        expires_s: float | None = None,
        label: str | None = None,
        key: str | None = None,
        unique_key: str | None = None,
        unique_for_s: float | None = None,
        unique_states: Iterable[State] | None = None,
        after: Sequence[RemoteJob[Any] | str] = (),
    ) -> ConfiguredClient:
        """An enqueuer for jobs that differ from their task's policy; see `Runtime.options`. `after`
        takes ids too; a `retry` cannot name exception classes. Raises InvalidJob."""
        options = {
            "job_id": job_id,
            "queue": queue,
            "priority": priority,
            "delay_s": delay_s,
            "at": at,
            "timeout_s": timeout_s,
            "retry": retry,
            "result_ttl_s": result_ttl_s,
            "expires_s": expires_s,
            "label": label,
            "key": key,
            "unique_key": unique_key,
            "unique_for_s": unique_for_s,
            "unique_states": unique_states,
            "after": _ids_in(after),
        }
        return ConfiguredClient(self, as_plain(self._clock, options))

    async def find(self, job_id: str) -> RemoteJob[Any]:
        """The handle of a job by its id. Raises UnknownJob."""
        return RemoteJob(self, await self.snapshot(job_id), Any)

    async def snapshot(self, job_id: str, *, wait_s: float = 0.0) -> JobSnapshot:
        """The job as it is now, or as it is within `wait_s` seconds if it ends in them."""
        query = f"?wait_s={wait_s:.3f}" if wait_s else ""
        snapshot: JobSnapshot = await self._get(f"/jobs/{_quoted(job_id)}{query}", JobSnapshot)
        return snapshot

    async def list_jobs(
        self,
        *,
        state: State | None = None,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SnapshotPage:
        """Up to `limit` jobs that match, newest first. Raises InvalidJob."""
        given = {"state": state, "queue": queue, "task": task, "limit": limit, "cursor": cursor}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        page: SnapshotPage = await self._get(f"/jobs?{query}", SnapshotPage)
        return page

    async def queues(self) -> list[QueueInfo]:
        """Figures of every queue. Raises WorkerUnreachable."""
        found: dict[str, list[QueueInfo]] = await self._get("/queues", dict[str, list[QueueInfo]])
        return found["queues"]

    async def pause(self, queue: str) -> QueueInfo:
        """Raises UnknownQueue."""
        return await self._act_on_queue(queue, "pause")

    async def resume(self, queue: str) -> QueueInfo:
        """Raises UnknownQueue."""
        return await self._act_on_queue(queue, "resume")

    async def tasks(self) -> list[dict[str, Any]]:
        """The worker's tasks: name, policy, and the JSON Schema of their parameters."""
        found: dict[str, list[dict[str, Any]]] = await self._get(
            "/tasks", dict[str, list[dict[str, Any]]]
        )
        return found["tasks"]

    async def statistics(self) -> RuntimeStatistics:
        """What the worker, its queues, its executors and its store measure at this moment."""
        statistics: RuntimeStatistics = await self._get("/statistics", RuntimeStatistics)
        return statistics

    async def cancel(self, job_id: str) -> JobSnapshot:
        """Cancel a job; a running one may take a moment. Raises UnknownJob, InvalidTransition."""
        answer = await self._request("DELETE", f"/jobs/{_quoted(job_id)}")
        snapshot: JobSnapshot = decode(answer, JobSnapshot)
        return snapshot

    async def retry(self, job_id: str) -> JobSnapshot:
        """Run an ended job again. Raises UnknownJob, InvalidTransition."""
        path = f"/jobs/{_quoted(job_id)}/retry"
        answer = await self._request("POST", path, is_idempotent=False)
        snapshot: JobSnapshot = decode(answer, JobSnapshot)
        return snapshot

    # Inside

    async def _enqueue(
        self, options: dict[str, Any], task: TaskRef, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RemoteJob[Any]:
        """`options` are fields of the new job."""
        given = {"id": self._ids.make(self._clock.wall()), **options}
        new = NewJob(name_of(task), list(args), kwargs, **given)
        retried_for_s = math.inf if new.expires_s is None else new.expires_s
        answer = await self._request("POST", "/jobs", encoded(new), retried_for_s=retried_for_s)
        return RemoteJob(self, decode(answer, JobSnapshot), result_type(task))

    async def _act_on_queue(self, queue: str, verb: str) -> QueueInfo:
        answer = await self._request("POST", f"/queues/{_quoted(queue)}/{verb}")
        info: QueueInfo = decode(answer, QueueInfo)
        return info

    async def _get(self, path: str, kind: Any) -> Any:
        return decode(await self._request("GET", path), kind)

    async def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        is_idempotent: bool = True,
        retried_for_s: float = math.inf,
    ) -> Fetched:
        """The answer of a request that succeeded. Raises what a refusal stands for."""
        monotonic = self._clock.monotonic
        until = monotonic() + retried_for_s
        delay_s = self._retries.delay_s
        for left in reversed(range(self._retries.attempts)):
            wait_s = delay_s * random.uniform(0.5, 1.0)
            error: WorkerRuntimeError
            try:
                answer = await self._send(method, path, body)
            except FetchFailed as failure:
                error = WorkerUnreachable(f"{method} {self._base}{path}: {failure}")
                is_retried = is_idempotent or not failure.was_sent
            else:
                if answer.status < 400:
                    return answer
                error, is_retried = error_of(answer), answer.status in _RETRIED
                wait_s = max(wait_s, retry_after_s(answer) or 0.0)
            wait_s = min(self._retries.delay_max_s, wait_s)
            if not left or not is_retried or monotonic() + wait_s > until:
                raise error
            await asyncio.sleep(wait_s)
            delay_s *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, method: str, path: str, body: Any) -> Fetched:
        assert self._session is not None, "use the client as `async with`"
        return await fetch(
            self._session,
            method,
            self._base + path,
            json=body,
            timeout_s=self._timeout_s,
            bytes_max=ANSWER_BYTES_MAX,
            token=self._token,
        )


class ConfiguredClient:
    """A client's enqueue with its jobs' options fixed."""

    def __init__(self, client: Client, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options

    @overload
    async def enqueue(
        self, task: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, **kwargs: Any
    ) -> RemoteJob[R]: ...
    @overload
    async def enqueue(
        self, task: Callable[..., R], /, *args: Any, **kwargs: Any
    ) -> RemoteJob[R]: ...
    @overload
    async def enqueue(self, task: str, /, *args: Any, **kwargs: Any) -> RemoteJob[Any]: ...
    async def enqueue(self, task: TaskRef, /, *args: Any, **kwargs: Any) -> RemoteJob[Any]:
        """See `Client.enqueue`."""
        return await self._client._enqueue(self._options, task, args, kwargs)


class RemoteJob(Generic[R]):
    """A job on a worker, typed by what its task returns. `snapshot` is what was last seen."""

    def __init__(self, client: Client, snapshot: JobSnapshot, kind: Any) -> None:
        self._client = client
        self._kind = kind
        self.snapshot = snapshot

    def __repr__(self) -> str:
        return f"<remote job {self.id} {self.snapshot.task} {self.snapshot.state}>"

    @property
    def id(self) -> str:
        return self.snapshot.id

    @property
    def state(self) -> State:
        """As last seen."""
        return self.snapshot.state

    async def refresh(self) -> JobSnapshot:
        """Look again. Raises UnknownJob once the worker keeps it no longer."""
        self.snapshot = await self._client.snapshot(self.id)
        return self.snapshot

    async def wait(self, *, timeout_s: float | None = None) -> State:
        """Wait for the job to end, however it does. Raises TimeoutError; the job goes on."""
        monotonic = self._client._clock.monotonic
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while not self.snapshot.is_ended:
            wait_s = min(_LONG_POLL_S, self._client._timeout_s / 2)
            if deadline is not None:
                wait_s = min(wait_s, deadline - monotonic())
            if wait_s <= 0:
                raise TimeoutError(f"job {self.id} has not ended within {timeout_s:g} s")
            self.snapshot = await self._client.snapshot(self.id, wait_s=wait_s)
        return self.snapshot.state

    async def result(self, *, timeout_s: float | None = None) -> R:
        """The task's return value. Raises JobFailed, JobCancelled, or TimeoutError."""
        await self.wait(timeout_s=timeout_s)
        ended = self.snapshot
        if ended.state is COMPLETED:
            if ended.result_error is not None:
                raise JobFailed(
                    self.id,
                    reason=Reason.UNENCODABLE,
                    error_type="Unencodable",
                    error=ended.result_error,
                )
            value: R = msgspec.json.decode(ended.result, type=self._kind, strict=False)
            return value
        if ended.state is FAILED:
            raise JobFailed(
                self.id,
                reason=ended.reason or Reason.ERROR,
                error_type=ended.error_type or "",
                error=ended.error or "",
            )
        raise JobCancelled(self.id, ended.error or "")

    async def cancel(self) -> JobSnapshot:
        """See `Client.cancel`."""
        self.snapshot = await self._client.cancel(self.id)
        return self.snapshot


def _ids_in(after: Any) -> Any:
    """Handles replaced by their ids; the rest as it is, to be refused with the other options."""
    if not isinstance(after, Iterable) or isinstance(after, str):
        return after
    return tuple(one.id if isinstance(one, RemoteJob) else one for one in after)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")
