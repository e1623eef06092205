"""A job that blocks the event loop is noticed while it does, and named."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from tests.helpers import eventually
from worker_runtime import Runtime, Settings

NERVOUS = Settings(loop_lag_warn_s=0.05)


async def block(seconds: float) -> None:
    time.sleep(seconds)


def block_in_thread(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.both_loops
async def test_a_job_that_blocks_the_loop_is_named_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Runtime([block], settings=NERVOUS) as runtime:
        with caplog.at_level(logging.WARNING):
            handle = await runtime.enqueue(block, 0.4)
            await handle.result(timeout_s=5)
        assert runtime.loop_blocked_count == 1
        await eventually(lambda: 0.1 < runtime.loop_lag_s < 5)
        await eventually(lambda: runtime.loop_lag_s < 0.05)
    (record,) = [r for r in caplog.records if r.name == "worker_runtime.watchdog"]
    message = record.getMessage()
    assert f"blocked for 0.1 s by job {handle.id} (block)" in message
    assert "time.sleep(seconds)" in message


async def test_the_lag_is_seen_from_outside_while_it_lasts() -> None:
    async with Runtime([], settings=NERVOUS) as runtime:
        seen: list[float] = []

        def look() -> None:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and not any(lag > 0.2 for lag in seen):
                time.sleep(0.01)
                seen.append(runtime.loop_lag_s)

        looking = threading.Thread(target=look)
        looking.start()
        time.sleep(0.5)
        looking.join()
        assert max(seen) > 0.2


async def test_code_outside_of_jobs_is_not_blamed_on_one(caplog: pytest.LogCaptureFixture) -> None:
    async with Runtime([block], settings=NERVOUS) as runtime:
        await (await runtime.enqueue(block, 0)).result(timeout_s=5)
        with caplog.at_level(logging.WARNING):
            time.sleep(0.4)
            await asyncio.sleep(0)
        await eventually(lambda: runtime.loop_blocked_count == 1)
    assert "by code outside of jobs" in caplog.text


async def test_jobs_that_wait_or_block_in_threads_are_not_noticed() -> None:
    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    settings = Settings(loop_lag_warn_s=0.3)
    async with Runtime([wait, block_in_thread], settings=settings) as runtime:
        one = await runtime.enqueue(wait, 0.5)
        other = await runtime.enqueue(block_in_thread, 0.5)
        await one.wait(timeout_s=5)
        await other.wait(timeout_s=5)
        assert runtime.loop_blocked_count == 0


async def test_the_watchdogs_thread_ends_with_the_runtime() -> None:
    def watchdogs() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "worker-runtime-watchdog"]

    before = len(watchdogs())
    async with Runtime([]):
        assert len(watchdogs()) == before + 1
    assert len(watchdogs()) == before
