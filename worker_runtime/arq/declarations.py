"""What a settings class in arq's manner is written with: where Redis is, functions, cron jobs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from worker_runtime.arq.settings import import_path
from worker_runtime.stores.redis.location import RedisLocation

Seconds = int | float | timedelta


class Retry(RuntimeError):
    """Raised in a task to be run again, after `defer` (seconds or a timedelta) where given."""

    def __init__(self, defer: Seconds | None = None) -> None:
        self.defer_score: int | None = milliseconds(defer)

    def __repr__(self) -> str:
        return f"<Retry defer {(self.defer_score or 0) / 1000:0.2f}s>"

    def __str__(self) -> str:
        return repr(self)


@dataclass
class RedisSettings:
    """Where Redis is; the fields are those of `RedisLocation`."""

    host: str | list[tuple[str, int]] = "localhost"
    port: int = 6379
    unix_socket_path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = None
    ssl: bool = False
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_cert_reqs: str = "required"
    ssl_ca_certs: str | None = None
    ssl_ca_data: str | None = None
    ssl_check_hostname: bool = False
    conn_timeout: float = 1
    conn_retries: int = 5
    conn_retry_delay: float = 1
    max_connections: int | None = None
    sentinel: bool = False
    sentinel_master: str = "mymaster"

    @classmethod
    def from_dsn(cls, dsn: str) -> RedisSettings:
        """From `redis://`, `rediss://` or `unix://`. Raises ConfigurationError."""
        found = RedisLocation.from_url(dsn, is_strict=False)
        shared = set(RedisLocation.__struct_fields__) - {"conn_timeout"}
        return cls(**{name: getattr(found, name) for name in shared})


@dataclass
class Function:
    name: str
    coroutine: Callable[..., Any]
    timeout_s: float | None
    keep_result_s: float | None
    keep_result_forever: bool | None
    max_tries: int | None


def func(
    coroutine: str | Function | Callable[..., Any],
    *,
    name: str | None = None,
    keep_result: Seconds | None = None,
    timeout: Seconds | None = None,
    keep_result_forever: bool | None = None,
    max_tries: int | None = None,
) -> Function:
    """A function with settings of its own, for `WorkerSettings.functions`."""
    if isinstance(coroutine, Function):
        return coroutine
    name, found = _named(coroutine, name, "")
    return Function(
        name, found, seconds(timeout), seconds(keep_result), keep_result_forever, max_tries
    )


@dataclass
class CronJob:
    name: str
    coroutine: Callable[..., Any]
    month: Any
    day: Any
    weekday: Any
    hour: Any
    minute: Any
    second: Any
    microsecond: int
    run_at_startup: bool
    unique: bool
    job_id: str | None
    timeout_s: float | None
    keep_result_s: float | None
    keep_result_forever: bool | None
    max_tries: int | None


def cron(
    coroutine: str | Callable[..., Any],
    *,
    name: str | None = None,
    month: Any = None,
    day: Any = None,
    weekday: Any = None,
    hour: Any = None,
    minute: Any = None,
    second: Any = 0,
    microsecond: int = 123_456,
    run_at_startup: bool = False,
    unique: bool = True,
    job_id: str | None = None,
    timeout: Seconds | None = None,
    keep_result: float | None = 0,
    keep_result_forever: bool | None = False,
    max_tries: int | None = 1,
) -> CronJob:
    """A cron job, for `WorkerSettings.cron_jobs`; see `arq.cron.CronSchedule` for the fields."""
    name, found = _named(coroutine, name, "cron:")
    return CronJob(
        name,
        found,
        month,
        day,
        weekday,
        hour,
        minute,
        second,
        microsecond,
        run_at_startup,
        unique,
        job_id,
        seconds(timeout),
        seconds(keep_result),
        keep_result_forever,
        max_tries,
    )


def _named(
    coroutine: str | Callable[..., Any], name: str | None, prefix: str
) -> tuple[str, Callable[..., Any]]:
    if isinstance(coroutine, str):
        return name or prefix + coroutine, import_path(coroutine)
    if not inspect.iscoroutinefunction(coroutine):
        raise RuntimeError(f"{coroutine} is not a coroutine function")
    return name or prefix + coroutine.__qualname__, coroutine


def seconds(duration: Seconds | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def milliseconds(duration: Seconds | None) -> int | None:
    found = seconds(duration)
    return None if found is None else round(found * 1000)
