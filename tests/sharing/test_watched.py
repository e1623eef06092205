"""Whoever waits for a job is told of its end, wherever it runs by then."""

from __future__ import annotations

import asyncio

from tests.support.redis_server import RedisServer
from worker_runtime import JobContext, Runtime, task


async def test_whoever_waits_is_told_though_another_worker_took_the_job(
    server: RedisServer,
) -> None:
    gate = asyncio.Event()
    runs: list[str] = []

    @task
    async def hold(ctx: JobContext) -> str:
        runs.append(ctx.job_id)
        await gate.wait()
        return ctx.job_id

    async with (
        Runtime([hold], store=server.url) as first,
        Runtime([hold], store=server.url) as second,
    ):
        second.pause("default")
        job = await first.enqueue("hold")
        while not runs:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(job.result(timeout_s=20))
        with server.client() as client:
            client.delete(f"arq:in-progress:{job.id}")  # as if its lease had run out
        second.resume("default")
        first.pause("default")
        while len(runs) < 2:
            await asyncio.sleep(0.001)
        while first.queue_info("default").running:  # until it knows that it lost it
            await asyncio.sleep(0.01)
        gate.set()
        assert await waiting == job.id
    assert runs == [job.id] * 2
