"""arq's wire format: its keys in Redis, its job and its result as bytes.

All times on the wire are integer milliseconds since 1970. A serializer pair is the fleet's choice
and nothing on the wire names it; the default is pickle, read with `pickles`.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import pickle
from collections.abc import Callable
from typing import Any

import msgspec

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.bounded import clean
from worker_runtime.stores.redis.wire.pickles import (
    dumps_plain,
    dumps_with_foreign_error,
    loads_plain,
    loads_result,
)

logger = logging.getLogger("arq.jobs")

DEFAULT_QUEUE_KEY = "arq:queue"
JOB_PREFIX = "arq:job:"
IN_PROGRESS_PREFIX = "arq:in-progress:"
RETRY_PREFIX = "arq:retry:"
RESULT_PREFIX = "arq:result:"
ABORT_KEY = "arq:abort"
HEALTH_SUFFIX = ":health-check"

RETRY_TTL_S = 88_400
EXPIRES_EXTRA_MS = 86_400_000
ABORT_AGE_MAX_MS = 60_000
CRON_HOLD_MS = 60_000

# Ours alone, beside arq's: no arq process looks at them; those of a job expire.
WAKE_CHANNEL = "worker-runtime:wake:"
BEGUN_PREFIX = "worker-runtime:begun:"
DEAD_PREFIX = "worker-runtime:dead:"
DEAD_INDEX = "worker-runtime:dead"
DEAD_TTL_S = 7 * 86_400
PROGRESS_PREFIX = "worker-runtime:progress:"

Serializer = Callable[[dict[str, Any]], bytes]
Deserializer = Callable[[bytes], dict[str, Any]]


class WireJob(msgspec.Struct, frozen=True):
    """A job as its enqueuer wrote it.

    function    the task's name
    job_try     the number of the first try, where the enqueuer gave one
    enqueued_ms when
    extra       our own clients' options, which arq's readers pass over
    """

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    job_try: int | None
    enqueued_ms: int
    extra: dict[str, Any] | None = None


class WireResult(msgspec.Struct, frozen=True):
    """A result as the worker wrote it. `value` is the return value or the exception."""

    job: WireJob
    success: bool
    value: Any
    started_ms: int
    finished_ms: int
    queue_key: str | None
    extra: dict[str, Any] | None = None


class ForeignError(msgspec.Struct, frozen=True):
    """An exception to be written for readers that have its class, though this process has not."""

    module: str
    name: str
    text: str


def execution_failed(text: str) -> ForeignError:
    return ForeignError("arq.worker", "JobExecutionFailed", text)


class Unreadable(Exception):
    """Bytes in Redis that cannot be read as a job or result; the text says why."""


class Wire:
    """Encodes and decodes with one serializer pair.

    Without one it is pickle, read plain: what is not plain data is refused, unless `unsafe_pickle`.
    `writes_plain`: what is not plain data is not written either.
    """

    def __init__(
        self,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
        *,
        unsafe_pickle: bool = False,
        writes_plain: bool = False,
    ) -> None:
        self._serialize = serializer or (dumps_plain if writes_plain else pickle.dumps)
        self.is_pickle = serializer is None
        self._read_job: Deserializer
        self._read_result: Deserializer
        if deserializer is not None:
            self._read_job = self._read_result = deserializer
        elif unsafe_pickle:
            self._read_job = self._read_result = pickle.loads
        else:
            self._read_job, self._read_result = loads_plain, loads_result

    @classmethod
    def named(cls, name: str) -> Wire:
        """The wire called `pickle`, `msgpack` or `json`. Raises ConfigurationError."""
        if name == "pickle":
            return cls(writes_plain=True)
        if name == "msgpack":
            return cls(msgspec.msgpack.encode, msgspec.msgpack.decode)
        if name == "json":
            return cls(msgspec.json.encode, msgspec.json.decode)
        raise ConfigurationError(f"serializer={name!r}: must be pickle, msgpack or json")

    def encode_job(self, job: WireJob) -> bytes:
        """Raises what the serializer raises."""
        data: dict[str, Any] = {
            "t": job.job_try,
            "f": job.function,
            "a": job.args,
            "k": job.kwargs,
            "et": job.enqueued_ms,
        }
        if job.extra:
            data["x"] = job.extra
        return self._serialize(data)

    def decode_job(self, data: bytes) -> WireJob:
        """Raises Unreadable."""
        try:
            return _job_of(self._read_job(data))
        except Exception as error:  # whatever a serializer hook raises
            raise Unreadable(_explain(error)) from error

    def encode_result(self, result: WireResult, job_id: str) -> bytes | None:
        """As arq does: a value that the serializer refuses becomes the text `unable to serialize
        result` of a failure; None where that is refused too, and then nobody learns the result."""
        job = result.job
        data: dict[str, Any] = {
            "t": job.job_try,
            "f": job.function,
            "a": job.args,
            "k": job.kwargs,
            "et": job.enqueued_ms,
            "s": result.success,
            "r": result.value,
            "st": result.started_ms,
            "ft": result.finished_ms,
            "q": result.queue_key,
            "id": job_id,
        }
        if result.extra:
            data["x"] = result.extra
        value = result.value
        try:
            if isinstance(value, ForeignError):
                if self.is_pickle:
                    del data["r"]
                    return dumps_with_foreign_error(data, "r", value.module, value.name, value.text)
                data["r"] = RuntimeError(value.text)
            return self._serialize(data)
        except Exception:
            logger.warning("error serializing result of %s:%s", job_id, job.function, exc_info=True)
            data |= {"r": "unable to serialize result", "s": False}
        try:
            return self._serialize(data)
        except Exception:
            return None

    def decode_result(self, data: bytes) -> WireResult:
        """Raises Unreadable."""
        try:
            found = self._read_result(data)
            job = _job_of(found)
            return WireResult(
                job=job,
                success=bool(found["s"]),
                value=found["r"],
                started_ms=int(found["st"]),
                finished_ms=int(found["ft"]),
                queue_key=found.get("q"),
                extra=found.get("x"),
            )
        except Exception as error:
            raise Unreadable(_explain(error)) from error


def exception_for(error_type: str, text: str) -> Exception:
    """The exception that stands on the wire for one that is known by its class name and text: the
    built-in class where it has that name, else a RuntimeError that says the name."""
    kind = getattr(builtins, error_type, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            made: Exception = kind(text) if text else kind()
            return made
        except Exception:  # a built-in that wants other arguments, as UnicodeDecodeError does
            pass
    return RuntimeError(f"{error_type}: {text}")


def is_cancelled(value: object) -> bool:
    return isinstance(value, asyncio.CancelledError)


def _job_of(found: dict[str, Any]) -> WireJob:
    args, kwargs, job_try, extra = found["a"], found["k"], found["t"], found.get("x")
    function, enqueued_ms = found["f"], found["et"]
    if not isinstance(function, str):
        raise TypeError(f"the function's name must be text, not {type(function).__name__}")
    if not isinstance(args, list | tuple):
        raise TypeError(f"the arguments must be a list or tuple, not {type(args).__name__}")
    if not isinstance(kwargs, dict):
        raise TypeError(f"the named arguments must be a dict, not {type(kwargs).__name__}")
    return WireJob(
        function=clean(function),  # no task has a name that this changes, and it is shown
        args=tuple(args),
        kwargs=kwargs,
        job_try=None if job_try is None else int(job_try),
        enqueued_ms=int(enqueued_ms),
        extra=extra if isinstance(extra, dict) else None,
    )


def _explain(error: Exception) -> str:
    text = clean(str(error)[:300])
    if isinstance(error, KeyError):
        return f"it has no field {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
