"""Exception classes by qualified name, also those whose module is not loaded yet."""

from __future__ import annotations

import builtins
import sys
from typing import Any

from worker_runtime.model.tasks.policy import qualified_name

# Where classes of ours are that files may name by an earlier home. Append only: whoever moves an
# exception that a user may write into `Retry(only_for=...)` leaves its old name here.
MOVED = {
    "worker_runtime.arq_declarations.Retry": "worker_runtime.arq.declarations.Retry",
    "worker_runtime.arq_errors.DeserializationError": (
        "worker_runtime.arq.errors.DeserializationError"
    ),
    "worker_runtime.arq_errors.JobExecutionFailed": "worker_runtime.arq.errors.JobExecutionFailed",
    "worker_runtime.arq_errors.ResultNotFound": "worker_runtime.arq.errors.ResultNotFound",
    "worker_runtime.arq_errors.SerializationError": "worker_runtime.arq.errors.SerializationError",
    "worker_runtime.client_wire.RequestFailed": "worker_runtime.client.answers.RequestFailed",
    "worker_runtime.client_wire.WorkerUnreachable": (
        "worker_runtime.client.answers.WorkerUnreachable"
    ),
    "worker_runtime.fleet.FleetError": "worker_runtime.fleet.front.FleetError",
}


class _MatchesByName(type):
    """Makes `isinstance` compare qualified names along the lineage of the instance's class."""

    def __instancecheck__(cls, instance: Any) -> bool:
        name = qualified_name(cls)
        return any(qualified_name(kind) == name for kind in type(instance).__mro__)


def exception_class(name: str) -> type[BaseException]:
    """The exception class called `name`, for example `builtins.ValueError` or `app.mail.Refused`.

    Only modules that are loaded are looked at: nothing is imported by a stored name. Where the
    class is not found, a stand-in matches by name whatever is raised later.
    """
    name = MOVED.get(name, name)
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:split]))
        for part in parts[split:]:
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
    module, _, qualname = name.rpartition(".")
    return _stand_in(module or builtins.__name__, qualname)


def _stand_in(module: str, qualname: str) -> type[BaseException]:
    namespace = {"__module__": module, "__qualname__": qualname}
    made: type[BaseException] = _MatchesByName(qualname, (Exception,), namespace)  # type: ignore[assignment]
    return made
