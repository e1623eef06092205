"""Settings classes for real arq and for us: the same module runs under both."""

from __future__ import annotations

import asyncio
import os
import time

from arq import Retry
from arq.connections import RedisSettings

WHO = f"{os.getpid()}"


async def add(ctx, a, b=1):
    return a + b


async def broken(ctx):
    raise KeyError("gone")


async def again(ctx):
    if ctx["job_try"] < 3:
        raise Retry(defer=0.05)
    return ctx["job_try"]


async def sleep(ctx, seconds):
    await ctx["redis"].rpush("starts", ctx["job_id"])
    await asyncio.sleep(seconds)
    return seconds


async def block(ctx, seconds):
    await ctx["redis"].rpush("starts", ctx["job_id"])
    time.sleep(seconds)
    return seconds


async def tally(ctx):
    """Records who ran it, and any moment at which two run it at a time."""
    key = f"running:{ctx['job_id']}"
    # Outlives a killed worker by less than a lease does: what finds it runs beside a living one.
    if not await ctx["redis"].set(key, WHO, nx=True, px=2000):
        await ctx["redis"].rpush("overlaps", ctx["job_id"])
    await asyncio.sleep(0.02)
    await ctx["redis"].rpush(f"ran:{ctx['job_id']}", WHO)
    await ctx["redis"].delete(key)
    return WHO


async def tries(ctx):
    return ctx["job_try"]


class WorkerSettings:
    functions = [add, broken, again, sleep, block, tally, tries]
    redis_settings = RedisSettings(
        port=int(os.environ["ARQ_SIDE_PORT"]), conn_retry_delay=0.2, conn_retries=50
    )
    allow_abort_jobs = True
    poll_delay = 0.05
    health_check_interval = 1
    job_timeout = 60
    keep_result = 600
    lease_s = 3


class FewSettings(WorkerSettings):
    """A worker that does not know `tally`. arq reads a class's own attributes only."""

    functions = [add]
    redis_settings = WorkerSettings.redis_settings
    allow_abort_jobs = True
    poll_delay = 0.05


class NarrowSettings(WorkerSettings):
    """Looks at the first ten jobs in the queue, and runs ten at a time."""

    functions = [add, sleep]
    redis_settings = WorkerSettings.redis_settings
    poll_delay = 0.05
    queue_read_limit = 10
    lease_s = 3


class BurstSettings:
    """Ends by itself, unless it is told not to."""

    functions = [add]
    redis_settings = WorkerSettings.redis_settings
    poll_delay = 0.05
    burst = True


LOG_DICT = {
    "version": 1,
    "formatters": {"own": {"format": "OWN %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "loggers": {"arq": {"handlers": ["own"], "level": "INFO"}},
}


class PatientSettings:
    """Lets running jobs end when it is stopped."""

    functions = [sleep]
    redis_settings = WorkerSettings.redis_settings
    poll_delay = 0.05
    job_completion_wait = 30
