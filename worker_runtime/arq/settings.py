"""A settings class or dict as arq reads it, checked and in our words.

Recognised by attributes alone: arq itself is never imported, whichever version made the objects.
The rules are arq's (`arq/worker.py`, `get_kwargs` and `Worker.__init__`): only the class's own
attributes count, not inherited ones, and those arq does not know are ignored.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta, tzinfo
from typing import Any

import msgspec

from worker_runtime.arq.cron import CronSchedule
from worker_runtime.errors import ConfigurationError
from worker_runtime.model.tasks.definition import policy_of
from worker_runtime.stores.redis.location import RedisLocation
from worker_runtime.stores.redis.wire.layout import (
    DEFAULT_QUEUE_KEY,
    EXPIRES_EXTRA_MS,
    Deserializer,
    Serializer,
)

logger = logging.getLogger("worker_runtime.arq")

Hook = Callable[[dict[Any, Any]], Any]

_HOOKS = ("on_startup", "on_shutdown", "on_job_start", "on_job_end", "after_job_end")
_OURS = ("unsafe_pickle", "unknown_functions", "lease_s")
_REFUSED = {
    "redis_pool": "a pool belongs to the event loop that made it; give redis_settings instead",
}


class ArqFunction(msgspec.Struct, frozen=True):
    """One function of a worker. None: as the worker says.

    `cron` is its schedule where it is a cron job.
    """

    name: str
    coroutine: Callable[..., Any]
    timeout_s: float | None = None
    keep_result_s: float | None = None
    keep_result_forever: bool | None = None
    max_tries: int | None = None
    cron: CronSchedule | None = None


class ArqSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's settings, with arq's names and defaults. `crons`: functions and when they run.

    Ours, which arq ignores:
    unsafe_pickle      read every pickle, also one that runs code
    unknown_functions  `leave` jobs for functions that this worker lacks to others, or `fail` them
    lease_s            how long after a worker's death its jobs are taken up by others
    """

    functions: tuple[ArqFunction, ...]
    crons: tuple[tuple[str, CronSchedule], ...] = ()
    redis: RedisLocation
    queue_name: str = DEFAULT_QUEUE_KEY
    burst: bool = False
    on_startup: Hook | None = None
    on_shutdown: Hook | None = None
    on_job_start: Hook | None = None
    on_job_end: Hook | None = None
    after_job_end: Hook | None = None
    handle_signals: bool = True
    job_completion_wait: float = 0
    max_jobs: int = 10
    job_timeout: float | None = 300
    keep_result: float = 3600
    keep_result_forever: bool = False
    poll_delay: float = 0.5
    queue_read_limit: int | None = None
    max_tries: int = 5
    health_check_interval: float = 3600
    health_check_key: str | None = None
    ctx: dict[Any, Any] = {}
    retry_jobs: bool = True
    allow_abort_jobs: bool = False
    max_burst_jobs: int = -1
    job_serializer: Serializer | None = None
    job_deserializer: Deserializer | None = None
    expires_extra_ms: int = EXPIRES_EXTRA_MS
    timezone: tzinfo | None = None
    log_results: bool = True
    unsafe_pickle: bool = False
    unknown_functions: str = "leave"
    lease_s: float = 20.0


_DURATIONS = ("job_timeout", "keep_result", "poll_delay", "health_check_interval",
              "job_completion_wait", "lease_s")  # fmt: skip
_AT_LEAST = {
    "max_jobs": 1,
    "max_tries": 1,
    "job_timeout": 0,
    "keep_result": 0,
    "poll_delay": 0,
    "health_check_interval": 0,
    "job_completion_wait": 0,
    "lease_s": 1,
    "expires_extra_ms": 1,
}
_KINDS: dict[str, Any] = {
    "max_jobs": int,
    "max_tries": int,
    "max_burst_jobs": int,
    "queue_read_limit": int | None,
    "expires_extra_ms": int,
    "queue_name": str,
    "health_check_key": str | None,
    "burst": bool,
    "retry_jobs": bool,
    "allow_abort_jobs": bool,
    "keep_result_forever": bool,
    "handle_signals": bool,
    "log_results": bool,
    "unsafe_pickle": bool,
}


def read_settings(source: object, **overrides: Any) -> ArqSettings:
    """The settings in a class or dict; `overrides` win. Raises ConfigurationError, naming the
    attribute."""
    name = getattr(source, "__qualname__", type(source).__name__)
    raw: dict[str, Any] = dict(source) if isinstance(source, Mapping) else dict(vars(source))
    own = {k: _unwrapped(v) for k, v in raw.items() if not k.startswith("__")} | overrides
    known = set(ArqSettings.__struct_fields__) | {"cron_jobs", "redis_settings"} | set(_REFUSED)
    ignored = sorted(k for k in own if k not in known or k in ("redis", "crons"))
    if ignored:
        logger.warning("%s: ignored, as arq does: %s", name, ", ".join(ignored))
    for attribute, reason in _REFUSED.items():
        if own.get(attribute) is not None:
            raise ConfigurationError(f"{name}.{attribute} is not supported: {reason}")
    values = {k: v for k, v in own.items() if k in ArqSettings.__struct_fields__}
    for field in ("functions", "crons", "redis"):
        values.pop(field, None)
    for field in list(values):
        values[field] = _checked(name, field, values[field])
    functions = [_function(name, f) for f in own.get("functions") or ()]
    cron_functions = [_cron_function(name, job) for job in own.get("cron_jobs") or ()]
    functions += cron_functions
    if not functions:
        raise ConfigurationError(f"{name}: at least one function or cron job must be registered")
    by_name = {function.name: function for function in functions}
    location = own.get("redis_settings")
    return ArqSettings(
        functions=tuple(by_name.values()),
        crons=tuple((f.name, f.cron) for f in cron_functions if f.cron is not None),
        redis=RedisLocation() if location is None else RedisLocation.from_attributes(location),
        **values,
    )


def _unwrapped(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod) else value


def _checked(name: str, field: str, value: Any) -> Any:
    if field in _DURATIONS:
        value = _seconds(value)
        if value is None and field == "job_timeout":
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigurationError(f"{name}.{field} must be seconds, not {value!r}")
    elif field in _KINDS:
        try:
            msgspec.convert(value, _KINDS[field])
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{name}.{field}: {error}") from None
    elif field in _HOOKS and value is not None and not callable(value):
        raise ConfigurationError(f"{name}.{field} must be a coroutine function, not {value!r}")
    elif field == "unknown_functions" and value not in ("leave", "fail"):
        raise ConfigurationError(f"{name}.{field} must be leave or fail, not {value!r}")
    elif field == "ctx":
        value = {} if value is None else value
    if field == "queue_name" and not value:
        raise ConfigurationError(f"{name}.queue_name must not be empty")
    if field in _AT_LEAST and value < _AT_LEAST[field]:
        raise ConfigurationError(f"{name}.{field} must be at least {_AT_LEAST[field]}, not {value}")
    return value


def _function(owner: str, entry: Any) -> ArqFunction:
    """From a coroutine function, the path of one, or what arq's `func(...)` made."""
    if isinstance(entry, str):
        return _function(owner, ArqFunction(entry, import_path(entry)))
    if hasattr(entry, "coroutine") and hasattr(entry, "name"):
        return ArqFunction(
            name=entry.name,
            coroutine=_coroutine(owner, entry.coroutine),
            timeout_s=_seconds(getattr(entry, "timeout_s", None)),
            keep_result_s=_seconds(getattr(entry, "keep_result_s", None)),
            keep_result_forever=getattr(entry, "keep_result_forever", None),
            max_tries=getattr(entry, "max_tries", None),
        )
    function = _coroutine(owner, _unwrapped(entry))
    return ArqFunction(getattr(function, "__qualname__", repr(function)), function)


def _cron_function(owner: str, entry: Any) -> ArqFunction:
    """From what arq's `cron(...)` made."""
    if not hasattr(entry, "coroutine") or not hasattr(entry, "run_at_startup"):
        raise ConfigurationError(f"{owner}.cron_jobs must hold what cron(...) makes, not {entry!r}")
    return msgspec.structs.replace(
        _function(owner, entry), cron=CronSchedule.from_attributes(entry)
    )


def _coroutine(owner: str, function: Any) -> Callable[..., Any]:
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )
    if not callable(function) or not (is_async or policy_of(function) is not None):
        raise ConfigurationError(
            f"{owner}.functions: {function!r} is not a coroutine function; a sync function needs "
            '@task(run_in="thread") or "process"'
        )
    found: Callable[..., Any] = function
    return found


def import_path(path: str) -> Any:
    """What stands at a dotted path. Raises ConfigurationError."""
    module, _, attribute = path.strip().rpartition(".")
    if not module:
        raise ConfigurationError(f"{path!r} must be a dotted path: module.name")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{path!r} cannot be imported: {error}") from error


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value
