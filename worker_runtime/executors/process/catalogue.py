"""Which functions children may run, and how a new process finds them again.

A function crosses as a reference, its module and qualified name; what cannot be found that way is
refused while the executor is built, not when its first job fails.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import runpy
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import TaskDefinition, define

MAIN_ALIAS = "__mp_main__"
"""What `__main__` is called where it is imported again; the name that `multiprocessing` uses."""

_loading = False  # this process is importing the program's modules for its children


class TaskCatalogue(msgspec.Struct, frozen=True):
    """What a child needs to know about the code it runs.

    modules      imported before anything else
    main_name    the name to import `__main__` by, or
    main_path    the file or archive to run it from, where it is needed
    references   task name and pickled reference
    setup        pickled reference to the per-process setup
    """

    modules: tuple[str, ...]
    references: tuple[tuple[str, bytes], ...]
    setup: bytes | None = None
    main_name: str | None = None
    main_path: str | None = None


def catalogue(
    tasks: Iterable[TaskDefinition], setup: Callable[..., Any] | str | None
) -> TaskCatalogue:
    """Describe `tasks` and `setup` for children. Raises ConfigurationError for what a child could
    not find."""
    if _loading:
        raise ConfigurationError(
            "a runtime with process tasks is made while its own child imports the program; "
            'put the code that makes it under `if __name__ == "__main__":`'
        )
    modules: dict[str, None] = {}
    references = []
    for task in tasks:
        assert task.fn is not None, "a parked task is never registered"
        references.append((task.name, _reference(task.fn, f"task {task.name!r}")))
        modules[_module_of(task.fn)] = None
    encoded_setup = None
    if setup is not None:
        fn = _resolve(setup) if isinstance(setup, str) else setup
        encoded_setup = _reference(fn, "the process setup")
        modules[_module_of(fn)] = None
    main_name = main_path = None
    if "__main__" in modules:
        del modules["__main__"]
        main_name, main_path = _main_source()
        sys.modules.setdefault(
            MAIN_ALIAS, sys.modules["__main__"]
        )  # results name their class by it
    return TaskCatalogue(tuple(modules), tuple(references), encoded_setup, main_name, main_path)


def load(known: TaskCatalogue) -> tuple[dict[str, TaskDefinition], Callable[[], Any] | None]:
    """In a child: the tasks by name, and the setup. Raises whatever an import raises."""
    global _loading
    _loading = True
    try:
        _import_main(known)
        for module in known.modules:
            importlib.import_module(module)
    finally:
        _loading = False
    tasks = {
        name: define(pickle.loads(reference), name=name, context_type=JobContext)
        for name, reference in known.references
    }
    return tasks, None if known.setup is None else pickle.loads(known.setup)


def _reference(fn: Any, what: str) -> bytes:
    try:
        return pickle.dumps(fn, 5)
    except Exception as error:
        raise ConfigurationError(
            f"{what} cannot run in a child process: {getattr(fn, '__qualname__', fn)!r} cannot be "
            f"imported there ({error}); define it with `def` at the top level of a module, "
            "not as a lambda or inside a function"
        ) from error


def _module_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__module__", None) or type(fn).__module__


def _resolve(path: str) -> Callable[..., Any]:
    """The object at `module:attribute`."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"process setup {path!r} must be module:function: {error}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"process setup {path!r} must name a function, not {found!r}")
    return found  # type: ignore[no-any-return]


def _main_source() -> tuple[str | None, str | None]:
    """How `__main__` can be imported again: by name (`python -m`), or from its file."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name not in (None, "__main__"):
        return name, None
    path = getattr(main, "__file__", None)
    if path is not None and name is not None and not os.path.isfile(path):
        path = os.path.dirname(path)  # `python app.zip`: the archive itself
    if path is not None and os.path.isfile(path):
        return None, os.path.abspath(path)
    raise ConfigurationError(
        "a task for child processes is defined in __main__, and __main__ is not a file that a "
        "child could import (an interactive session or `python -c`); move the task to a module"
    )


def _import_main(known: TaskCatalogue) -> None:
    """Import the program's main module under another name, so that its guard does not run it."""
    if known.main_name is not None:
        content = runpy.run_module(known.main_name, run_name=MAIN_ALIAS, alter_sys=True)
    elif known.main_path is not None:
        content = runpy.run_path(known.main_path, run_name=MAIN_ALIAS)
    else:
        return
    module = types.ModuleType(MAIN_ALIAS)
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules[MAIN_ALIAS] = module
