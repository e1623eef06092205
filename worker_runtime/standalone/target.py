"""What to serve: turns the TARGET of the command line into a Runtime.

`module:attribute`  a Runtime, a function without arguments that returns one, a task, or a list or
                    dict of tasks
`module`            every function in it that is marked with `@task`
`pkg.mod.Name`      the same as `pkg.mod:Name`; an arq settings class, or several with commas
nothing             the built-in tasks: one that simulates work, and some to try
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.tasks.definition import name_of, policy_of
from worker_runtime.runtime import Runtime
from worker_runtime.settings import Settings
from worker_runtime.standalone.example_tasks import EXAMPLE_TASKS
from worker_runtime.web.sandbox.simulated_task import builtin_tasks

NamedTasks = dict[str, Callable[..., Any]]


def arq_settings(target: str | None) -> list[Any]:
    """The arq settings classes or dicts that TARGET names, several separated by commas; none where
    it names something else. Raises ConfigurationError."""
    if target is None:
        return []
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = [_resolve(part.strip()) for part in target.split(",")]
    chosen = [part for part in found if _is_arq_settings(part)]
    if chosen and len(chosen) < len(found):
        raise ConfigurationError(f"{target!r}: arq settings and other targets cannot be mixed")
    return chosen


def _is_arq_settings(found: Any) -> bool:
    own = found if isinstance(found, dict) else getattr(found, "__dict__", {})
    lists = [own.get("functions"), own.get("cron_jobs")]
    return isinstance(found, dict | type) and any(isinstance(x, list | tuple) for x in lists)


def load_runtime(target: str | None, settings: Settings) -> Runtime:
    """The runtime that TARGET stands for, not started. Raises ConfigurationError.

    A Runtime that the target made itself keeps its own settings. The functions of
    `settings.import_modules` are served besides the target's tasks, and replace a built-in one of
    the same name.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    imported = _imported_tasks(settings.import_modules)
    if target is None:
        own = _named([*builtin_tasks(settings), *EXAMPLE_TASKS])
        return Runtime(own | imported, settings=settings)
    found = _resolve(target)
    if callable(found) and not isinstance(found, type) and policy_of(found) is None:
        found = _called(found, target)
    if isinstance(found, Runtime):
        if imported:
            raise ConfigurationError(
                f"WORKER_IMPORT adds tasks to a module's; {target!r} is a Runtime, which lists its "
                "own: add them there"
            )
        return found
    tasks = _tasks_of(found, target)
    for name in tasks.keys() & imported.keys():
        raise ConfigurationError(f"WORKER_IMPORT and {target!r} both have a task called {name!r}")
    return Runtime(tasks | imported, settings=settings)


def _resolve(target: str) -> Any:
    """The module or attribute that `target` names."""
    module_name, colon, path = target.partition(":")
    if os.sep in module_name or module_name.endswith(".py"):
        name = os.path.basename(module_name).removesuffix(".py")
        raise ConfigurationError(
            f"cannot serve {target!r}: TARGET is a module, not a file; in its folder, say {name}"
        )
    if colon:
        return _attribute(_import(module_name, target), path, target)
    if _exists(module_name):
        return _import(module_name, target)
    parent, _, name = target.rpartition(".")
    if parent and _exists(parent):
        return _attribute(_import(parent, target), name, target)
    return _import(module_name, target)


def _exists(module_name: str) -> bool:
    """Whether a module of that name can be found. Imports its parents."""
    try:
        return importlib.util.find_spec(module_name) is not None
    except (Exception, SystemExit):  # a parent that fails is reported when it is imported itself
        return False


def _import(module_name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        last_line = traceback.format_exception_only(error)[-1].strip()
        where = _where(error)
        raise ConfigurationError(f"cannot import {target!r}: {last_line}{where}") from error


def _where(error: BaseException) -> str:
    """The file and line outside of the import system where `error` was raised, if it has one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename != importlib.__file__
    ]
    own = [frame for frame in frames if frame.filename != __file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _attribute(module: ModuleType, path: str, target: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(
                f"cannot serve {target!r}: {module.__name__} has no attribute {path!r}"
            ) from None
    return found


def _called(factory: Callable[[], Any], target: str) -> Any:
    try:
        made = factory()
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        last_line = traceback.format_exception_only(error)[-1].strip()
        raise ConfigurationError(f"{target}() failed: {last_line}{_where(error)}") from error
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError(f"{target!r} is an async function without @task; mark it")
    if not isinstance(made, Runtime):
        raise ConfigurationError(
            f"{target}() returned {type(made).__name__}; it must return a Runtime"
        )
    return made


def _tasks_of(found: Any, target: str) -> NamedTasks:
    if isinstance(found, ModuleType):
        return _marked(found, target)
    if isinstance(found, Mapping):
        return dict(found)
    if isinstance(found, list | tuple | set | frozenset):
        return _named(found)
    if policy_of(found) is not None:
        return _named([found])
    raise ConfigurationError(
        f"cannot serve {target!r}: it is {type(found).__name__}, and must be a Runtime, a function "
        "that returns one, a task, or a list or dict of tasks"
    )


def _marked(module: ModuleType, target: str) -> NamedTasks:
    tasks = [found for found in vars(module).values() if policy_of(found) is not None]
    if tasks:
        return _named(tasks)
    runtimes = [name for name, found in vars(module).items() if isinstance(found, Runtime)]
    hint = f"; did you mean {target}:{runtimes[0]}?" if runtimes else ""
    raise ConfigurationError(f"{target!r} has no function marked with @task{hint}")


def _imported_tasks(module_names: Iterable[str]) -> NamedTasks:
    tasks: NamedTasks = {}
    for module_name in module_names:
        public = _public_functions(_import(module_name, module_name))
        if not public:
            raise ConfigurationError(f"WORKER_IMPORT={module_name!r}: it has no public function")
        for name, function in _named(public).items():
            if name in tasks:
                raise ConfigurationError(f"WORKER_IMPORT has two tasks called {name!r}")
            tasks[name] = function
    return tasks


def _public_functions(module: ModuleType) -> list[Callable[..., Any]]:
    """Those in `__all__`; without one, those that the module defines and whose names do not begin
    with an underscore. Generators and lambdas, which no task can be, are passed over."""
    names = getattr(module, "__all__", None)
    listed = None if names is None else set(names)
    return [
        found
        for name, found in vars(module).items()
        if inspect.isfunction(found)
        and found.__name__.isidentifier()
        and not (inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found))
        and (
            name in listed
            if listed is not None
            else not name.startswith("_") and found.__module__ == module.__name__
        )
    ]


def _named(tasks: Iterable[Callable[..., Any]]) -> NamedTasks:
    """Tasks by the name each is registered under. Raises ConfigurationError for a name twice."""
    named: NamedTasks = {}
    for fn in tasks:
        name = name_of(fn)
        if named.setdefault(name, fn) is not fn:
            raise ConfigurationError(
                f"two tasks are called {name!r}; give one another name with @task(name=...)"
            )
    return named
