"""What a request says about a new job becomes its options, and how long its answer may wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.acceptance.options import WIRE, EnqueueOptions, given_options
from worker_runtime.clock.source import Clock
from worker_runtime.contracts.job_documents import NewJob
from worker_runtime.errors import InvalidJob, Unavailable, UnknownJob
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.options import check_plain, of_plain
from worker_runtime.runtime import Runtime
from worker_runtime.web.wire.bodies.media import is_msgpack
from worker_runtime.web.wire.bodies.reading import Body, read_body
from worker_runtime.web.wire.query import number
from worker_runtime.web.wire.rejection import Rejection
from worker_runtime.web.wire.waits import JobWaits

WAIT_MAX_S = 60.0


class JobBody:
    """Reads new jobs. An option that cannot be read is refused as it would be in Python."""

    def __init__(self, bytes_max: int, *, name: str = "body") -> None:
        self._bytes_max = bytes_max
        self._job: Body[NewJob] = Body(NewJob, bytes_max=bytes_max, name=name)
        self._fields: Body[dict[str, Any]] = Body(dict[str, Any], bytes_max=bytes_max)

    async def read(self, request: web.Request) -> NewJob:
        """Raises InvalidJob, and Rejection as `Body.read` does."""
        packed = is_msgpack(request)
        return self.decode(await read_body(request, self._bytes_max), packed=packed)

    def decode(self, data: bytes, *, packed: bool = False) -> NewJob:
        """Raises InvalidJob, Rejection."""
        try:
            return self._job.decode(data, packed=packed)
        except Rejection as rejection:
            if rejection.status == 422:
                self._check_options(data, packed=packed)
            raise

    def _check_options(self, data: bytes, *, packed: bool) -> None:
        try:
            fields = self._fields.decode(data, packed=packed)
        except Rejection:
            return  # the one there was says more
        check_plain(fields)


def options_of(clock: Clock, new: NewJob, after: Sequence[JobHandle[Any]] = ()) -> EnqueueOptions:
    """`after` are the jobs that `new.after` names. Raises InvalidJob."""
    if new == NewJob(new.task, new.args, new.kwargs):
        return WIRE
    return given_options(clock, of_plain(new), after, wire=True).now()


async def parents_of(runtime: Runtime, new: NewJob) -> list[JobHandle[Any]]:
    """Raises InvalidJob where a job that is to come first is not kept."""
    try:
        return [await runtime.find(job_id) for job_id in new.after]
    except UnknownJob as error:
        raise InvalidJob(f"`after`: {error}") from None


def asked_wait_s(request: web.Request) -> float:
    """`?wait_s=`: how long the answer may wait for the job's end, 0 to 60 seconds."""
    return number(request, "wait_s", low=0.0, high=WAIT_MAX_S, default=0.0)


async def ended_within(waits: JobWaits, job: Job, seconds: float) -> bool:
    """Whether the job ended in time. The job was accepted, so that not being able to wait for it is
    no refusal."""
    try:
        return await waits.ended_within(job, seconds)
    except Unavailable:
        return False
