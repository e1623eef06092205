"""The tasks of one runtime, by name and by function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from worker_runtime.errors import ConfigurationError, UnknownTask
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import TaskDefinition, define
from worker_runtime.model.tasks.policy import TaskPolicy

Tasks = Iterable[Any]
"""Functions, or a mapping of names to functions. `Any`, because mypy infers a list of differently
typed functions as `list[function]` where a union asks for it, and then refuses that."""


class TaskRegistry:
    """Only what is registered here can run. Names are unique; ConfigurationError otherwise.

    any_name  names are a foreign fleet's, and may be any text
    """

    def __init__(self, *, queue: str, timeout_s: float | None, any_name: bool = False) -> None:
        self._any_name = any_name
        self._queue = queue
        self._timeout_s = timeout_s
        self._by_name: dict[str, TaskDefinition] = {}
        self.known: dict[Callable[..., Any] | str, TaskDefinition] = {}
        """By function and by name, for who asks for each job; `find` explains what is not here."""
        self._parked: dict[str, TaskDefinition] = {}

    def __iter__(self) -> Iterator[TaskDefinition]:
        return iter(self._by_name.values())

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def add_all(self, tasks: Tasks) -> None:
        if isinstance(tasks, Mapping):
            for name, fn in tasks.items():
                self.add(fn, name=name)
        elif isinstance(tasks, Iterable) and not isinstance(tasks, str):
            for fn in tasks:
                self.add(fn)
        else:
            raise ConfigurationError(f"tasks must be a list of functions, not {tasks!r:.200}")

    def add(self, fn: Callable[..., Any], *, name: str | None = None) -> TaskDefinition:
        definition = define(
            fn,
            name=name,
            queue=self._queue,
            timeout_s=self._timeout_s,
            context_type=JobContext,
            any_name=self._any_name,
        )
        other = self._by_name.get(definition.name)
        if other is not None:
            if other.fn == fn:
                return other
            raise ConfigurationError(
                f"two tasks are called {definition.name!r}: {other.fn!r} and {fn!r}; "
                "give one of them another name with @task(name=...)"
            )
        self._by_name[definition.name] = self.known[definition.name] = definition
        try:
            self.known[fn] = definition
        except TypeError:  # an unhashable callable is found by its name alone
            pass
        return definition

    def find(self, task: Callable[..., Any] | str) -> TaskDefinition:
        """The definition for a function or a name. Raises UnknownTask."""
        try:
            found = self.known.get(task)
        except TypeError:
            raise UnknownTask(f"{task!r:.128} is found by its name: it has no hash") from None
        if found is not None:
            return found
        if inspect.iscoroutine(task):
            task.close()
            raise UnknownTask(
                f"{task.__qualname__}(...) is a call that was made already; "
                f"give the function, then its arguments: enqueue({task.__qualname__}, ...)"
            )
        shown = task[:128] if isinstance(task, str) else getattr(task, "__qualname__", task)
        raise UnknownTask(f"no task {shown!r} is registered")

    def find_or_park(self, name: str) -> TaskDefinition:
        """The definition for a stored job's task; one without a function where it is gone."""
        found = self._by_name.get(name) or self._parked.get(name)
        if found is None:
            found = TaskDefinition(None, TaskPolicy(), name=name, queue=self._queue)
            self._parked[name] = found
        return found
