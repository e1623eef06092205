"""The plant's work, much shortened: pauses in place of donuts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

Ctx = dict[str, Any]
Task = Callable[..., Coroutine[Any, Any, dict[str, str]]]


def _done(task: str) -> dict[str, str]:
    return {"status": "completed", "timestamp": datetime.now(UTC).isoformat(), "task": task}


def pausing(name: str, seconds: float) -> Task:
    """A task called `name` that takes `seconds`."""

    async def work(ctx: Ctx, **options: Any) -> dict[str, str]:
        await asyncio.sleep(float(options.get("seconds", seconds)))
        return _done(name)

    work.__name__ = work.__qualname__ = name
    return work


async def system_health_check(ctx: Ctx) -> dict[str, str]:
    await ctx["redis"].ping()
    return _done("system_health_check")


async def cleanup_temp_files() -> dict[str, str]:
    """Takes no context, as the tasks in the plant's guide: it is called without one."""
    await asyncio.sleep(0.01)
    return _done("cleanup_temp_files")
