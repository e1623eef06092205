"""The native dialect, `/v1`: jobs, queues and tasks as resources.

Bodies are JSON or MessagePack by Content-Type, answers by Accept, errors are RFC 9457 problem
documents. A client that goes away while it waits leaves its job alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from worker_runtime.model.job import Job
from worker_runtime.model.states import CANCELLED, State
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web.native.accepting import (
    JobBody,
    asked_wait_s,
    ended_within,
    options_of,
    parents_of,
)
from worker_runtime.web.native.batch import Batches
from worker_runtime.web.native.documents import document_of, shown_job, task_document
from worker_runtime.web.wire.bodies.answers import answer, problem
from worker_runtime.web.wire.bodies.media import wants_msgpack
from worker_runtime.web.wire.dialect import DialectDefaults
from worker_runtime.web.wire.query import flag, only, whole, word
from worker_runtime.web.wire.rejection import Rejection
from worker_runtime.web.wire.uptime import uptime_s
from worker_runtime.web.wire.waits import JobWaits

_FILTERS = frozenset({"state", "queue", "task", "limit"})
_STATES = {str(state): state for state in State}


class Native(DialectDefaults):
    """Jobs, queues and tasks of one runtime under `prefix`."""

    name = "native"

    def __init__(self, runtime: Runtime, settings: Settings, *, prefix: str) -> None:
        self._runtime = runtime
        self._prefix = prefix
        self._waits = JobWaits(runtime)
        self._result_bytes_max = settings.result_bytes_max
        self._new_job = JobBody(settings.payload_bytes_max)
        self._batches = Batches(runtime, settings, self._waits)

    def routes(self) -> Sequence[web.RouteDef]:
        at = self._prefix
        return [
            web.post(f"{at}/jobs", self._create),
            web.get(f"{at}/jobs", self._list),
            web.delete(f"{at}/jobs", self._delete_many),
            web.post(f"{at}/jobs/batch", self._batches.create),
            web.post(f"{at}/jobs/retry", self._retry_many),
            web.get(f"{at}/jobs/{{id}}", self._show),
            web.delete(f"{at}/jobs/{{id}}", self._cancel),
            web.post(f"{at}/jobs/{{id}}/retry", self._retry),
            web.get(f"{at}/queues", self._queues),
            web.get(f"{at}/queues/{{name}}", self._queue),
            web.post(f"{at}/queues/{{name}}/pause", self._pause),
            web.post(f"{at}/queues/{{name}}/resume", self._resume),
            web.get(f"{at}/tasks", self._tasks),
            web.get(f"{at}/cron", self._crons),
            web.get(f"{at}/executors", self._executors),
            web.get(f"{at}/statistics", self._statistics),
        ]

    def health(self) -> Mapping[str, Any]:
        accepting = self._runtime.is_accepting
        return {
            "healthy": accepting,
            "status": "ok" if accepting else "stopping",
            "uptime": uptime_s(self._runtime),
        }

    def refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
        return problem(request, rejection)

    # Jobs

    async def _create(self, request: web.Request) -> web.Response:
        """202 and where to look, or with `?wait_s=` 200 and the ended job."""
        wait_s = asked_wait_s(request)
        new = await self._new_job.read(request)
        parents = await parents_of(self._runtime, new) if new.after else ()
        options = options_of(self._runtime.doorway.clock, new, parents)
        handle = await self._runtime.doorway.enqueue_with(
            options, new.task, tuple(new.args), new.kwargs
        )
        job = handle.job
        if wait_s and await ended_within(self._waits, job, wait_s):
            return self._job_answer(request, job, 200)
        return self._job_answer(request, job, 202, {"Location": f"{self._prefix}/jobs/{job.id}"})

    async def _show(self, request: web.Request) -> web.Response:
        wait_s = asked_wait_s(request)
        job = await self._runtime.job(request.match_info["id"])
        if wait_s:
            await ended_within(self._waits, job, wait_s)
        packed = wants_msgpack(request)
        return answer(request, shown_job(job, packed=packed, bytes_max=self._result_bytes_max))

    async def _list(self, request: web.Request) -> web.Response:
        state = _state(request, _FILTERS | {"cursor"})
        page = await self._runtime.list_jobs(
            state=state,
            queue=request.query.get("queue"),
            task=request.query.get("task"),
            limit=_limit(request, 100),
            cursor=request.query.get("cursor"),
        )
        return answer(request, page)

    async def _cancel(self, request: web.Request) -> web.Response:
        """200: it has ended as cancelled. 202: it was told to stop. 409: it had ended otherwise.
        With `?purge=true`, 204: it had ended and is kept no longer. 409: it has not ended."""
        if flag(request, "purge", is_exact=True):
            await self._runtime.delete(request.match_info["id"])
            return web.Response(status=204)
        job = await self._runtime.job(request.match_info["id"])
        accepted = await self._runtime.cancel(job.id)
        if not accepted and job.state is not CANCELLED:
            raise Rejection(409, "invalid_transition", f"job {job.id} has ended: it is {job.state}")
        return self._job_answer(request, job, 200 if job.is_ended else 202)

    async def _retry(self, request: web.Request) -> web.Response:
        handle = await self._runtime.retry(request.match_info["id"])
        headers = {"Location": f"{self._prefix}/jobs/{handle.id}"}
        return self._job_answer(request, handle.job, 202, headers)

    # Many jobs at once

    async def _retry_many(self, request: web.Request) -> web.Response:
        """202 and the ids of the failed (with `?state=`, cancelled) jobs that run again."""
        result = await self._runtime.retry_many(
            state=_state(request, _FILTERS) or State.FAILED,
            queue=request.query.get("queue"),
            task=request.query.get("task"),
            limit=_limit(request, 1000),
        )
        return answer(request, result, 202)

    async def _delete_many(self, request: web.Request) -> web.Response:
        """200 and the ids of the ended jobs that are kept no longer. `?state=` must say which."""
        state = _state(request, _FILTERS)
        if state is None:
            raise Rejection(422, "invalid_query", "`state` is needed: completed, failed, cancelled")
        result = await self._runtime.delete_many(
            state=state,
            queue=request.query.get("queue"),
            task=request.query.get("task"),
            limit=_limit(request, 1000),
        )
        return answer(request, result)

    # Queues, tasks and figures

    async def _queues(self, request: web.Request) -> web.Response:
        return answer(request, {"queues": self._runtime.queue_infos()})

    async def _queue(self, request: web.Request) -> web.Response:
        return answer(request, self._runtime.queue_info(request.match_info["name"]))

    async def _pause(self, request: web.Request) -> web.Response:
        self._runtime.pause(request.match_info["name"])
        return await self._queue(request)

    async def _resume(self, request: web.Request) -> web.Response:
        self._runtime.resume(request.match_info["name"])
        return await self._queue(request)

    async def _tasks(self, request: web.Request) -> web.Response:
        return answer(request, {"tasks": [task_document(task) for task in self._runtime.tasks]})

    async def _crons(self, request: web.Request) -> web.Response:
        return answer(request, {"cron": self._runtime.crons()})

    async def _executors(self, request: web.Request) -> web.Response:
        """Each executor's figures; of the process executor also its children, one by one."""
        return answer(request, self._runtime.doorway.executors())

    async def _statistics(self, request: web.Request) -> web.Response:
        return answer(request, self._runtime.statistics())

    # Inside

    def _job_answer(
        self,
        request: web.Request,
        job: Job,
        status: int,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        packed = wants_msgpack(request)
        document = document_of(job, packed=packed, bytes_max=self._result_bytes_max)
        return answer(request, document, status, headers)


def _state(request: web.Request, allowed: frozenset[str]) -> State | None:
    """The state that `?state=` names. Raises Rejection, also for a parameter not in `allowed`."""
    only(request, allowed)
    given = word(request, "state", _STATES)
    return None if given is None else _STATES[given]


def _limit(request: web.Request, default: int) -> int:
    return whole(request, "limit", low=1, high=1000, default=default)
