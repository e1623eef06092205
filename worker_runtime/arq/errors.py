"""What a client in arq's manner raises, under arq's names.

Where arq itself is loaded, what is raised is an instance of its class too, so that code written for
arq catches it. Nothing is imported for that.
"""

from __future__ import annotations

import sys
from typing import Any

from worker_runtime.stores.redis.wire.pickles import Foreign


class ResultNotFound(RuntimeError):
    """The job is not in its queue, and no result of it is kept."""


class SerializationError(RuntimeError):
    """A job or result cannot be written or read."""


class DeserializationError(SerializationError):
    """A job or result cannot be read."""


class JobExecutionFailed(RuntimeError):
    """The worker ended the job without running it."""


_BY_ARQS_NAME: dict[str, type[RuntimeError]] = {
    "arq.jobs.ResultNotFound": ResultNotFound,
    "arq.jobs.SerializationError": SerializationError,
    "arq.jobs.DeserializationError": DeserializationError,
    "arq.worker.JobExecutionFailed": JobExecutionFailed,
}
_ARQS_NAMES = {kind: name for name, kind in _BY_ARQS_NAME.items()}


def made(kind: type[RuntimeError], *args: Any) -> RuntimeError:
    """`kind(*args)`, which arq's class of that name also catches where arq is loaded."""
    module, _, name = _ARQS_NAMES[kind].rpartition(".")
    theirs = getattr(sys.modules.get(module), name, None)
    if isinstance(theirs, type) and issubclass(theirs, RuntimeError):
        kind = type(name, (kind, theirs), {"__module__": kind.__module__})
    return kind(*args)


def recognised(value: Any) -> Any:
    """An exception of arq's own that was read from a result, as ours; anything else as it is."""
    kind = _BY_ARQS_NAME.get(value.qualified_name) if isinstance(value, Foreign) else None
    return value if kind is None else made(kind, *value.args)
