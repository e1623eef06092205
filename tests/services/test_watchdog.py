"""A job that blocks the event loop is noticed while it does, and named."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time

import pytest

from tests.support.helpers import eventually
from worker_runtime import Runtime, Settings

# A busy machine may take the processor away for some 100 ms: that is no blocked loop yet.
NERVOUS = Settings(loop_lag_warn_s=0.3)


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
            handle = await runtime.enqueue(block, 1.0)
            await handle.result(timeout_s=5)
        assert runtime.loop_blocked_count >= 1
        await eventually(lambda: runtime.loop_lag_s < 0.3)
    (message,) = [m for m in caplog.messages if handle.id in m]
    assert re.search(rf"blocked for 0\.\d s by job {handle.id} \(block\)", message)
    assert "time.sleep(seconds)" in message


async def test_the_lag_is_seen_from_outside_while_it_lasts() -> None:
    async with Runtime([], settings=NERVOUS) as runtime:
        seen: list[float] = []
        is_blocked = threading.Event()

        def look() -> None:
            while is_blocked.is_set() and not any(lag > 0.5 for lag in seen):
                time.sleep(0.01)
                seen.append(runtime.loop_lag_s)

        looking = threading.Thread(target=look)
        is_blocked.set()
        looking.start()
        looking.join(10)  # blocks the loop until the lag is seen
        is_blocked.clear()
        assert max(seen) > 0.5


async def test_code_outside_of_jobs_is_not_blamed_on_one(caplog: pytest.LogCaptureFixture) -> None:
    async with Runtime([block], settings=NERVOUS) as runtime:
        await (await runtime.enqueue(block, 0)).result(timeout_s=5)
        with caplog.at_level(logging.WARNING):
            time.sleep(1.0)
            await asyncio.sleep(0)
        await eventually(lambda: runtime.loop_blocked_count >= 1)
    assert "by code outside of jobs" in caplog.text


async def test_jobs_that_wait_or_block_in_threads_are_not_noticed() -> None:
    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    settings = Settings(loop_lag_warn_s=0.5)
    async with Runtime([wait, block_in_thread], settings=settings) as runtime:
        one = await runtime.enqueue(wait, 0.8)
        other = await runtime.enqueue(block_in_thread, 0.8)
        await one.wait(timeout_s=5)
        await other.wait(timeout_s=5)
        assert runtime.loop_blocked_count == 0


async def test_the_watchdogs_thread_ends_with_the_runtime() -> None:
    before = set(threading.enumerate())

    def watchdogs() -> list[threading.Thread]:
        new = set(threading.enumerate()) - before
        return [thread for thread in new if thread.name == "worker-runtime-watchdog"]

    async with Runtime([]):
        assert len(watchdogs()) == 1
    await eventually(lambda: not watchdogs())
