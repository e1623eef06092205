"""A worker and a client in arq's manner, on a server of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.redis_server import RedisServer
from worker_runtime.arq import (
    ArqRedis,
    RedisSettings,
    create_pool,
)
from worker_runtime.arq.worker import ArqWorker

Ctx = dict[str, Any]


@asynccontextmanager
async def working(
    server: RedisServer, **settings: Any
) -> AsyncIterator[tuple[ArqWorker, ArqRedis]]:
    redis = RedisSettings(port=server.port)
    pool = await create_pool(
        redis,
        job_serializer=settings.get("job_serializer"),
        job_deserializer=settings.get("job_deserializer"),
    )
    try:
        async with ArqWorker({"redis_settings": redis, **settings}) as worker:
            yield worker, pool
    finally:
        await pool.aclose()


async def add(ctx: Ctx, a: int, b: int = 1) -> int:
    return a + b


async def enqueue(pool: ArqRedis, *args: Any, **kwargs: Any) -> Any:
    job = await pool.enqueue_job(*args, **kwargs)
    assert job is not None
    return job
