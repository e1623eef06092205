"""The servers that `benchmarks.fleets` compares, each a process of its own.

`python -m benchmarks.fleet_servers NAME` listens on a free port of 127.0.0.1, prints it, and serves
until it is killed.

ours   a worker with every dialect, four slots, two child processes
bare   an aiohttp application that decodes the same bodies and encodes the same answers, no jobs
guide  what Vera's guide describes, made to run: FastAPI and uvicorn, one task at a time, a look
       at the queue each tenth of a second, CPU measured as long inside the health check
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil
from aiohttp import web
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from benchmarks import serving
from worker_runtime import Runtime, Settings, task
from worker_runtime.standalone.server import set_collector
from worker_runtime.web import build_app

NAP_S = 0.02
SLOTS = 4
QUEUE_SIZE = 100


@task
async def noop() -> None:
    pass


@task
async def nap() -> None:
    await asyncio.sleep(NAP_S)


@task(domain="noop-operation")
async def operate() -> None:
    pass


@task(run_in="process")
def compute(rounds: int) -> int:
    """Some CPU work, about a second for ten million rounds."""
    total = 0
    for number in range(rounds):
        total += number & 3
    return total


async def our_app() -> web.Application:
    settings = Settings(
        dialects=("vera", "operations"),
        concurrency=SLOTS,
        queue_capacity=QUEUE_SIZE,
        processes=2,
        history_count_max=200_000,
    )
    runtime = Runtime([noop, nap, operate, compute], settings=settings)
    await runtime.start()
    app = build_app(runtime)
    set_collector()
    return app


async def bare_app() -> web.Application:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    encode = msgspec.json.Encoder().encode

    def json(document: dict[str, Any]) -> web.Response:
        return web.Response(body=encode(document), content_type="application/json")

    async def submit(request: web.Request) -> web.Response:
        body = decode(await request.read())
        await noop()
        task_id = body.get("task_id") or str(uuid.uuid4())
        return json({"status": "queued", "task_id": task_id, "position": 1})

    async def execute(request: web.Request) -> web.Response:
        body = decode(await request.read())
        await noop()
        metrics = {"execution_time": 0.0, "queue_time": 0.0, "attempts": 1, "worker_id": "w"}
        return json({"success": bool(body), "data": None, "error": None, "metrics": metrics})

    async def start(request: web.Request) -> web.Response:
        decode(await request.read())
        await operate()
        operation_id = f"worker_no_{uuid.uuid4().hex[:12]}"
        return json(
            {
                "success": True,
                "operation_id": operation_id,
                "status": "started",
                "worker_id": "worker-1",
            }
        )

    app = web.Application()
    app.router.add_post("/task/submit", submit)
    app.router.add_post("/execute", execute)
    app.router.add_post("/noop-operation/start", start)
    return app


class _Request(BaseModel):
    task_id: str | None = None
    payload: dict[str, Any]
    priority: str = "normal"


def guide_app() -> FastAPI:
    records: dict[str, dict[str, Any]] = {}
    waiting: queue.PriorityQueue[tuple[int, str]] = queue.PriorityQueue()
    order = {"critical": 0, "high": 1, "normal": 2, "low": 3}

    async def work() -> None:
        while True:
            if not waiting.empty():
                _, task_id = waiting.get()
                record = records[task_id]
                record["status"] = "running"
                record["started_at"] = datetime.now(UTC).isoformat()
                record["result"] = {"status": "success"}
                record["status"] = "completed"
                record["completed_at"] = datetime.now(UTC).isoformat()
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/task/submit")
    async def submit(request: _Request) -> dict[str, Any]:
        task_id = request.task_id or str(uuid.uuid4())
        records[task_id] = {
            "task_id": task_id,
            "payload": request.payload,
            "status": "queued",
            "queued_at": datetime.now(UTC).isoformat(),
        }
        waiting.put((order.get(request.priority, 2), task_id))
        return {"status": "queued", "task_id": task_id, "position": waiting.qsize()}

    @app.get("/task/{task_id}")
    async def show(task_id: str) -> dict[str, Any]:
        if task_id not in records:
            raise HTTPException(404, "Task not found")
        return records[task_id]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "healthy",
            "active_tasks": sum(r["status"] == "running" for r in records.values()),
            "queue_size": waiting.qsize(),
            "cpu_percent": psutil.cpu_percent(interval=0.1),
            "memory_percent": psutil.virtual_memory().percent,
        }

    @app.get("/metrics")
    async def metrics() -> dict[str, Any]:
        done = sum(r["status"] == "completed" for r in records.values())
        return {"tasks_completed": done, "tasks_queued": waiting.qsize()}

    return app


SERVERS = {
    "ours": serving.aiohttp_app(our_app),
    "bare": serving.aiohttp_app(bare_app),
    "guide": serving.fastapi_app(guide_app),
}

if __name__ == "__main__":
    serving.main(SERVERS[sys.argv[1]])
