"""A start request as the call of a task, and the call as the request it was."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from worker_runtime.model.job import Job
from worker_runtime.model.tasks.definition import TaskDefinition


class RequestShape:
    """How a task takes a start request: as one object, or its fields as arguments by name. Fields
    that it does not have are ignored, as the backend's models do."""

    def __init__(self, task: TaskDefinition) -> None:
        self._names = frozenset(task.signature.types)
        self._fields = _object_fields(task)
        self._one_name = next(iter(task.signature.types), "")
        parameters = inspect.signature(task.fn).parameters.values() if task.fn is not None else ()
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def arguments(self, body: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call that `body` stands for."""
        if self._fields is not None:
            return (body if "task_id" in self._fields else _without_id(body),), {}
        if self._takes_any:
            return (), _without_id(body)
        return (), {name: value for name, value in body.items() if name in self._names}

    def parameters(self, job: Job) -> dict[str, Any]:
        """The request that the operation was started with, as plain values."""
        try:
            named = dict(zip(job.task.signature.types, job.args, strict=False))
            plain: Any = msgspec.to_builtins(named | (job.kwargs or {}), str_keys=True)
        except Exception:  # a job enqueued in Python may hold what has no plain form
            return {}
        if self._fields is not None:
            plain = plain.get(self._one_name)
        return plain if isinstance(plain, dict) else {}


def _without_id(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "task_id"}


def _object_fields(task: TaskDefinition) -> frozenset[str] | None:
    """The fields of the one object (Struct, dataclass, TypedDict, dict, or None instead) that the
    task takes; None where it takes its arguments one by one."""
    kinds = list(task.signature.types.values())
    if len(kinds) != 1:
        return None
    try:
        found = msgspec.inspect.type_info(kinds[0])
    except Exception:  # a type that msgspec cannot describe is passed by name
        return None
    if isinstance(found, msgspec.inspect.UnionType):
        objects = [t for t in found.types if not isinstance(t, msgspec.inspect.NoneType)]
        found = objects[0] if len(objects) == 1 else found
    if isinstance(found, msgspec.inspect.DictType):
        return frozenset()
    if isinstance(
        found,
        msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType,
    ):
        return frozenset(field.encode_name for field in found.fields)
    return None
