"""What the six queues share: where Redis is, and the hooks that tell the dashboards."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from worker_runtime.arq import RedisSettings

EVENTS_STREAM = "aegis:events:worker"
EVENTS_MAX = 10_000

Ctx = dict[str, Any]

REDIS_SETTINGS = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))


def short_name(queue_name: str) -> str:
    return queue_name.rpartition(":")[2]


async def publish(ctx: Ctx, kind: str, **fields: str) -> None:
    """One event for the dashboards; what they cannot be told costs no job."""
    entry = {
        "type": kind,
        "queue": ctx["worker_queue_name"],
        "timestamp": datetime.now(UTC).isoformat(),
        **fields,
    }
    await ctx["redis"].xadd(EVENTS_STREAM, entry, maxlen=EVENTS_MAX, approximate=True)


class Hooks:
    """The hooks of one queue."""

    def __init__(self, queue_name: str) -> None:
        self._queue = short_name(queue_name)

    async def on_startup(self, ctx: Ctx) -> None:
        ctx["worker_queue_name"] = self._queue
        await publish(ctx, "worker.started")

    async def on_shutdown(self, ctx: Ctx) -> None:
        await publish(ctx, "worker.stopped")

    async def on_job_start(self, ctx: Ctx) -> None:
        await publish(ctx, "job.started", job_id=ctx["job_id"])

    async def after_job_end(self, ctx: Ctx) -> None:
        job_id = ctx["job_id"]
        kept = await ctx["redis"].exists(f"arq:result:{job_id}")
        await publish(ctx, "job.completed" if kept else "job.retried", job_id=job_id)
