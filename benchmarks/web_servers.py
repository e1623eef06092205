"""The three servers that `benchmarks.web` compares, each a process of its own.

`python -m benchmarks.web_servers NAME` listens on a free port of 127.0.0.1, prints it, and serves
until it is killed. All three answer the same three paths with documents of the same fields:

bare     an aiohttp application whose handlers decode, call the no-op and encode, with the same
         msgspec types as ours: what a person writes who needs no jobs
ours     the whole application with every dialect, the no-op being a registered task
fastapi  FastAPI on uvicorn (uvloop, httptools), pydantic models for bodies and answers
"""

from __future__ import annotations

import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks import serving
from worker_runtime import Runtime, Settings, State, task
from worker_runtime.contracts.job_documents import BatchItem, JobDocument, NewJob
from worker_runtime.standalone.server import set_collector
from worker_runtime.web import build_app
from worker_runtime.web.sandbox.dialect import TaskAnswer, TaskRequest


@task(name="task")
async def sandbox_noop(id: str, weight: float) -> None:
    pass


@task
async def noop() -> None:
    pass


def _document(started_at: datetime) -> JobDocument:
    now = datetime.now(UTC)
    return JobDocument(
        id=uuid.uuid4().hex,
        task="noop",
        queue="default",
        priority="normal",
        state=State.COMPLETED,
        attempt=1,
        created_at=started_at,
        started_at=started_at,
        ended_at=now,
    )


async def bare_app() -> web.Application:
    decode_task = msgspec.json.Decoder(TaskRequest).decode
    decode_job = msgspec.json.Decoder(NewJob).decode
    decode_batch = msgspec.json.Decoder(list[NewJob]).decode
    encode = msgspec.json.Encoder().encode

    async def run_task(request: web.Request) -> web.Response:
        call = decode_task(await request.read())
        started_at = time.perf_counter()
        await sandbox_noop(call.id or "", call.weight or 1.0)
        ms = int((time.perf_counter() - started_at) * 1000)
        answer = TaskAnswer(call.id or "", "worker-1", "#10b981", ms, ms, datetime.now(UTC))
        return web.Response(body=encode(answer), content_type="application/json")

    async def run_job(request: web.Request) -> web.Response:
        decode_job(await request.read())
        started_at = datetime.now(UTC)
        await noop()
        return web.Response(body=encode(_document(started_at)), content_type="application/json")

    async def run_batch(request: web.Request) -> web.Response:
        items = []
        for _ in decode_batch(await request.read()):
            started_at = datetime.now(UTC)
            await noop()
            items.append(BatchItem(200, _document(started_at)))
        return web.Response(body=encode(items), content_type="application/json")

    app = web.Application()
    app.router.add_post("/task", run_task)
    app.router.add_post("/v1/jobs", run_job)
    app.router.add_post("/v1/jobs/batch", run_batch)
    return app


async def our_app() -> web.Application:
    settings = Settings(queue_capacity=100_000)
    runtime = Runtime([sandbox_noop, noop], settings=settings)
    await runtime.start()
    app = build_app(runtime)
    set_collector()
    return app


class _Task(BaseModel):
    id: str = ""
    weight: float | None = 1.0


class _TaskAnswer(BaseModel):
    id: str
    worker: str
    color: str
    processing_time_ms: int
    processingTimeMs: int  # noqa: N815
    timestamp: datetime


class _Job(BaseModel):
    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class _JobAnswer(BaseModel):
    id: str
    task: str = "noop"
    queue: str = "default"
    priority: str = "normal"
    state: str = "completed"
    attempt: int = 1
    created_at: datetime
    due_at: datetime | None = None
    started_at: datetime
    ended_at: datetime
    progress: None = None
    reason: str | None = None
    error_type: str | None = None
    error: str | None = None
    note: str | None = None
    label: str | None = None
    result: Any = None
    result_error: str | None = None


class _Item(BaseModel):
    status: int
    job: _JobAnswer


def fastapi_app() -> FastAPI:
    app = FastAPI()

    async def done() -> _JobAnswer:
        started_at = datetime.now(UTC)
        await noop()
        return _JobAnswer(
            id=uuid.uuid4().hex,
            created_at=started_at,
            started_at=started_at,
            ended_at=datetime.now(UTC),
        )

    @app.post("/task")
    async def run_task(call: _Task) -> _TaskAnswer:
        started_at = time.perf_counter()
        await sandbox_noop(call.id, call.weight or 1.0)
        ms = int((time.perf_counter() - started_at) * 1000)
        return _TaskAnswer(
            id=call.id,
            worker="worker-1",
            color="#10b981",
            processing_time_ms=ms,
            processingTimeMs=ms,
            timestamp=datetime.now(UTC),
        )

    @app.post("/v1/jobs")
    async def run_job(job: _Job) -> _JobAnswer:
        return await done()

    @app.post("/v1/jobs/batch")
    async def run_batch(jobs: list[_Job]) -> list[_Item]:
        return [_Item(status=200, job=await done()) for _ in jobs]

    return app


SERVERS = {
    "bare": serving.aiohttp_app(bare_app),
    "ours": serving.aiohttp_app(our_app),
    "fastapi": serving.fastapi_app(fastapi_app),
}

if __name__ == "__main__":
    serving.main(SERVERS[sys.argv[1]])
