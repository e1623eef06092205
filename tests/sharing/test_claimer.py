"""Answers of Redis on different connections arrive in any order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.redis_server import RedisServer
from worker_runtime import JobContext, RunAgain, Runtime, State, task
from worker_runtime.stores.redis.script import Script


@asynccontextmanager
async def late(server: RedisServer, script: str, delay_s: float) -> AsyncIterator[str]:
    """The URL of a proxy that holds back the answers to one script for a while."""
    text = Script(script).text.encode()
    names = (text[:200], hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", server.port)
        wait_s = 0.0

        async def answer() -> None:
            while data := await answers.read(1 << 16):
                await asyncio.sleep(wait_s)
                writer.write(data)
            writer.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(answer())
            while data := await reader.read(1 << 16):
                wait_s = delay_s if any(name in data for name in names) else 0.0
                requests.write(data)
            requests.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0"


async def test_a_job_is_claimed_again_before_its_last_end_is_acknowledged(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []
    seen: list[tuple[State, int, int]] = []

    @task
    async def postpone(ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 3:
            raise RunAgain(0)
        await asyncio.sleep(0.5)  # the late answer has arrived
        seen.append((job.state, job.info().attempt, runtime.queue_info("default").running))

    async with late(server, "finish", 0.2) as url, Runtime([postpone], store=url) as runtime:
        job = await runtime.enqueue(postpone)
        await job.result(timeout_s=20)
        assert (await runtime.find(job.id)).state is State.COMPLETED
    assert attempts == [1, 1, 1]
    assert seen == [(State.RUNNING, 1, 1)]
    assert "could not be shown" not in caplog.text
