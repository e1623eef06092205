"""Many jobs in one request: an array, or NDJSON with a job a line; each is accepted on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from worker_runtime.acceptance.call import Call
from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.contracts.job_documents import BatchItem, NewJob
from worker_runtime.errors import InvalidJob, WorkerRuntimeError
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.web.native.accepting import (
    JobBody,
    asked_wait_s,
    ended_within,
    options_of,
    parents_of,
)
from worker_runtime.web.native.documents import document_of
from worker_runtime.web.wire.bodies.answers import answer, json_of
from worker_runtime.web.wire.bodies.media import is_msgpack, media_type, wants_msgpack
from worker_runtime.web.wire.bodies.reading import Body, read_body
from worker_runtime.web.wire.rejection import Rejection, problem_document, rejection_of
from worker_runtime.web.wire.waits import JobWaits

BATCH_JOBS_MAX = 10_000
NDJSON_TYPE = "application/x-ndjson"
_NDJSON_TYPES = frozenset({NDJSON_TYPE, "application/ndjson", "application/jsonl"})


class Batches:
    """Answers `POST /jobs/batch`."""

    def __init__(self, runtime: Runtime, settings: Settings, waits: JobWaits) -> None:
        self._runtime = runtime
        self._clock = runtime.doorway.clock
        self._waits = waits
        self._result_bytes_max = settings.result_bytes_max
        self._bytes_max = bytes_max = settings.payload_bytes_max
        self._item = JobBody(bytes_max, name="job")
        self._items: Body[list[NewJob]] = Body(list[NewJob], bytes_max=bytes_max)
        self._raw_items: Body[list[msgspec.Raw]] = Body(list[msgspec.Raw], bytes_max=bytes_max)

    async def create(self, request: web.Request) -> web.Response:
        """One answer per item, in order: each is accepted or refused on its own."""
        wait_s = asked_wait_s(request)
        lines = media_type(request) in _NDJSON_TYPES
        items = await self._read(request, lines=lines)
        if len(items) > BATCH_JOBS_MAX:
            detail = f"a batch may have {BATCH_JOBS_MAX} jobs, not {len(items)}"
            raise Rejection(422, "invalid_batch", detail)
        outcomes = await self._enqueue(items)
        if wait_s:
            await self._all_ended_within(outcomes, wait_s)
        packed = not lines and wants_msgpack(request)
        answers = [self._item_answer(outcome, packed=packed) for outcome in outcomes]
        if lines:
            body = b"".join(json_of(item) + b"\n" for item in answers)
            return web.Response(body=body, content_type=NDJSON_TYPE)
        return answer(request, answers)

    async def _read(self, request: web.Request, *, lines: bool) -> Sequence[NewJob | Exception]:
        """The items, those that cannot be decoded as their refusals. Raises Rejection where the
        body as a whole cannot be."""
        packed = False if lines else is_msgpack(request)
        data = await read_body(request, self._bytes_max)
        if lines:
            raw = [line for line in data.splitlines() if line.strip()]
            return [self._decode_item(line) for line in raw]
        try:
            return self._items.decode(data, packed=packed)
        except Rejection as rejection:
            if rejection.status != 422:
                raise
        raw_items = self._raw_items.decode(data, packed=packed)
        return [self._decode_item(bytes(item), packed=packed) for item in raw_items]

    def _decode_item(self, data: bytes, *, packed: bool = False) -> NewJob | Exception:
        try:
            return self._item.decode(data, packed=packed)
        except (Rejection, InvalidJob) as refusal:
            return refusal

    async def _enqueue(
        self, items: Sequence[NewJob | Exception]
    ) -> list[JobHandle[Any] | Exception]:
        refused: dict[int, Exception] = {}
        calls: list[tuple[EnqueueOptions, Call[Any]]] = []
        for place, item in enumerate(items):
            try:
                if isinstance(item, Exception):
                    raise item
                call: Call[Any] = Call(item.task, tuple(item.args), item.kwargs or {})
                after = await parents_of(self._runtime, item) if item.after else ()
                calls.append((options_of(self._clock, item, after), call))
            except (Rejection, WorkerRuntimeError) as error:
                refused[place] = error
        enqueued = await self._runtime.doorway.enqueue_each(calls)
        if not refused:
            return list(enqueued)
        accepted = iter(enqueued)
        return [refused[n] if n in refused else next(accepted) for n in range(len(items))]

    def _item_answer(self, outcome: JobHandle[Any] | Exception, *, packed: bool) -> BatchItem:
        if isinstance(outcome, JobHandle):
            job = outcome.job
            document = document_of(job, packed=packed, bytes_max=self._result_bytes_max)
            return BatchItem(200 if job.is_ended else 202, document)
        rejection = rejection_of(outcome)
        return BatchItem(rejection.status, None, problem_document(rejection))

    async def _all_ended_within(
        self, outcomes: Sequence[JobHandle[Any] | Exception], seconds: float
    ) -> None:
        until = self._clock.monotonic() + seconds
        for outcome in outcomes:
            if isinstance(outcome, JobHandle) and not outcome.job.is_ended:
                left_s = until - self._clock.monotonic()
                if left_s <= 0 or not await ended_within(self._waits, outcome.job, left_s):
                    return
