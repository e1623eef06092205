"""What TARGET may be, and what is said about one that cannot be served."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker_runtime import ConfigurationError, Runtime, Settings
from worker_runtime.standalone.target import load_runtime

WriteModule = Callable[[str], str]

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Writes a module into the current directory and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def write(source: str) -> str:
        name = f"target_{next(_numbers)}"
        header = "from worker_runtime import Runtime, Settings, task\n"
        Path(f"{name}.py").write_text(header + source)
        return name

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def load(target: str | None, **settings: object) -> Runtime:
    return load_runtime(target, Settings(**settings))  # type: ignore[arg-type]


def names(runtime: Runtime) -> set[str]:
    return {task.name for task in runtime.tasks}


TASKS = """
@task
async def one() -> int: return 1
@task(name="second")
def two() -> int: return 2
def helper() -> None: pass
async def plain() -> None: pass
"""


def test_a_module_serves_its_marked_functions(module: WriteModule) -> None:
    assert names(load(module(TASKS))) == {"one", "second"}


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [("[one, plain]", {"one", "plain"}), ("{'x': one, 'y': plain}", {"x", "y"}), ("one", {"one"})],
)
def test_an_attribute_may_be_a_task_a_list_or_a_dict(
    module: WriteModule, attribute: str, expected: set[str]
) -> None:
    assert names(load(f"{module(TASKS + f'found = {attribute}')}:found")) == expected


def test_a_runtime_keeps_its_own_settings(module: WriteModule) -> None:
    source = TASKS + "runtime = Runtime([one], settings=Settings(queue_capacity=7))"
    runtime = load(f"{module(source)}:runtime", queue_capacity=9)
    assert runtime.settings.queue_capacity == 7


def test_a_factory_is_called(module: WriteModule) -> None:
    source = TASKS + "class app:\n    @staticmethod\n    def make(): return Runtime([two])"
    assert names(load(f"{module(source)}:app.make")) == {"second"}


def test_a_dotted_name_reaches_an_attribute_of_a_module(module: WriteModule) -> None:
    assert names(load(f"{module(TASKS + 'mine = [one]')}.mine")) == {"one"}


def test_without_a_target_there_is_something_to_try(module: WriteModule) -> None:
    assert {"sleep", "add", "count_primes"} <= names(load(None))


def test_worker_import_adds_the_public_functions_of_modules(module: WriteModule) -> None:
    name = module("from os.path import join\ndef shown(): pass\ndef _hidden(): pass\n")
    found = names(load(None, import_modules=(name,)))
    assert "shown" in found
    assert found.isdisjoint({"_hidden", "join"})


def test_worker_import_passes_over_what_no_task_can_be(module: WriteModule) -> None:
    name = module(
        "def shown(): pass\ndef lines(): yield 1\n"
        "async def rows(): yield 1\nhalf = lambda n: n / 2\n"
    )
    found = names(load(None, import_modules=(name,)))
    assert "shown" in found
    assert found.isdisjoint({"lines", "rows", "half", "<lambda>"})


def test_worker_import_takes_a_module_at_its_own_word(module: WriteModule) -> None:
    name = module(
        "from os.path import join\n__all__ = ['shown', 'join']\n"
        "def shown(): pass\ndef helper(): pass\n"
    )
    found = names(load(None, import_modules=(name,)))
    assert {"shown", "join"} <= found
    assert "helper" not in found


def test_worker_import_replaces_a_built_in_task(module: WriteModule) -> None:
    name = module("async def add(a: str) -> str: return a\n")
    runtime = load(None, import_modules=(name,))
    (add,) = [task for task in runtime.tasks if task.name == "add"]
    assert add.fn is not None
    assert add.fn.__module__ == name


@pytest.mark.parametrize(
    ("source", "suffix", "message"),
    [
        ("import does_not_exist", "", "ModuleNotFoundError: No module named 'does_not_exist'"),
        ("1 / 0", "", r"ZeroDivisionError: division by zero \(.*target_\d+\.py, line 2\)"),
        ("def broken(:", "", r"SyntaxError: .* \(.*target_\d+\.py, line 2\)"),
        ("raise SystemExit(3)", "", "SystemExit: 3"),
        ("x = 1", "", "has no function marked with @task"),
        ("runtime = Runtime([])", "", r"did you mean target_\d+:runtime\?"),
        ("x = 1", ":x", "it is int, and must be a Runtime"),
        ("x = 1", ":y", "has no attribute 'y'"),
        ("def make(): return 3", ":make", "returned int; it must return a Runtime"),
        ("def make(): return 1 / 0", ":make", "ZeroDivisionError: division by zero"),
        ("def make(): raise SystemExit(4)", ":make", r"target_\d+:make\(\) failed: SystemExit: 4"),
        ("async def job(): pass", ":job", "async function without @task"),
        ("@task\ndef f(): pass\n@task(name='f')\ndef g(): pass", "", "two tasks are called 'f'"),
        ("tasks = [3]", ":tasks", "a task must be a function"),
    ],
)
def test_what_cannot_be_served_is_explained(
    module: WriteModule, source: str, suffix: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(module(source) + suffix)


@pytest.mark.parametrize("target", ["no_such_module", "no.such.module", "no_such:x", ":x", ""])
def test_a_target_that_does_not_exist_is_explained(module: WriteModule, target: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot import"):
        load(target)


@pytest.mark.parametrize(
    "target", ["tasks.py", "./tasks.py", "a/tasks.py", "a/tasks", "tasks.py:x"]
)
def test_a_file_is_no_target_and_the_module_is_named(module: WriteModule, target: str) -> None:
    with pytest.raises(ConfigurationError, match=r"TARGET is a module, not a file.* tasks"):
        load(target)


def test_worker_import_cannot_change_a_runtime(module: WriteModule) -> None:
    name = module(TASKS + "runtime = Runtime([one])")
    with pytest.raises(ConfigurationError, match="WORKER_IMPORT"):
        load(f"{name}:runtime", import_modules=(name,))
