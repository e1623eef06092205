"""The house: each folder is one sentence, a name is said once, and a test lies where its module is.

Length is no rule: `scripts/longest` shows what a person should look at.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import worker_runtime
from tests.support.helpers import ROOT

PACKAGE = Path(worker_runtime.__file__).parent
TESTS = ROOT / "tests"
MODULES_MAX = 12

# Systems that have a package: outside of it they need no prefix, and inside of it they have none.
SYSTEMS = ("arq", "child", "operation", "operations", "redis", "sandbox", "sqlite", "vera")
NAMES_THAT_SAY_NOTHING = {"base", "common", "helpers", "misc", "util", "utils"}

# Tests that are named after no module, and what they are named after.
NO_MODULE = {
    "test_foreign_names.py": "a rule for the whole package",
    "test_layout.py": "a rule for the whole package",
    "test_project.py": "what surrounds the package",
    "acceptance/test_fast_paths.py": "ways through several modules, each beside its plain one",
    "engine/test_fast_paths.py": "ways through several modules, each beside its plain one",
}

Tree = dict[str, str]
"""Paths of Python files from a folder on, with their texts."""


def _tree(folder: Path) -> Tree:
    found = sorted(folder.rglob("*.py"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


CODE = _tree(PACKAGE)
TEST_FILES = list(_tree(TESTS))


def _split(path: str) -> tuple[str, str]:
    """The folder of a module and its name, without the ending."""
    folder, _, name = path.rpartition("/")
    return folder, name.removesuffix(".py")


def _packages(tree: Sequence[str]) -> list[str]:
    """The folders that are packages; the whole is ``."""
    return [_split(path)[0] for path in tree if _split(path)[1] == "__init__"]


# What is asked of the package. Each check gives the places that are wrong.


def too_large(tree: Sequence[str]) -> list[str]:
    """Packages with more modules than a person keeps in mind; subpackages do not count."""
    modules = [folder for folder, name in map(_split, tree) if name != "__init__"]
    return [one for one in _packages(tree) if modules.count(one) > MODULES_MAX]


def not_one_sentence(tree: Tree) -> list[str]:
    """Packages whose docstring does not open with one sentence on a line."""
    wrong = []
    for path, text in tree.items():
        if _split(path)[1] == "__init__":
            first, *rest = (ast.get_docstring(ast.parse(text)) or "").splitlines() or [""]
            is_sentence = first[-1:] == "." and not re.search(r"[.!?] +[A-Z]", first)
            if not is_sentence or (rest and rest[0]):
                wrong.append(path)
    return wrong


def not_documented(tree: Tree) -> list[str]:
    return [path for path, text in tree.items() if not ast.get_docstring(ast.parse(text))]


def said_twice(tree: Sequence[str]) -> list[str]:
    """Modules and packages that repeat the name of a folder they are in, or of a system."""
    wrong = []
    for path in tree:
        folder, name = _split(path)
        if name == "__init__":
            folder, name = _split(folder)
        around = folder.split("/") if folder else []
        words = {*SYSTEMS, *around, *(one.removesuffix("s") for one in around)}
        own = {*around[-1:], *(one.removesuffix("s") for one in around[-1:])}
        if name in own or any(name.startswith(f"{word}_") for word in words):
            wrong.append(path)
    return wrong


def taken_or_empty(tree: Sequence[str]) -> list[str]:
    """Modules and packages named like one of the standard library's, or like nothing at all."""
    names = {part.removesuffix(".py") for path in tree for part in path.split("/")}
    return sorted(names & ({*sys.stdlib_module_names} | NAMES_THAT_SAY_NOTHING))


def test_no_package_has_more_modules_than_one_keeps_in_mind() -> None:
    assert too_large(list(CODE)) == []


def test_a_package_is_one_sentence() -> None:
    assert not_one_sentence(CODE) == []


def test_a_module_says_what_it_is_responsible_for() -> None:
    assert not_documented(CODE) == []


def test_a_module_does_not_repeat_its_folder() -> None:
    assert said_twice(list(CODE)) == []


def test_no_module_has_a_name_of_the_standard_library_or_none() -> None:
    assert taken_or_empty(list(CODE)) == []


# What is asked of the tests.


def without_tests(code: Sequence[str], tests: Sequence[str]) -> list[str]:
    """Packages that have no folder with tests."""
    tested = {"", *(parent.as_posix() for path in tests for parent in Path(path).parents)}
    return [one for one in _packages(code) if one not in tested]


def about_nothing(code: Sequence[str], tests: Sequence[str]) -> list[str]:
    """Test files beside the package's folders that are named after nothing in their folder.

    `test_x.py` is about a module or package `x`; where one has many tests, `test_x_of_some_kind.py`
    is about it too.
    """
    known = {path.removesuffix(".py") for path in code} | set(_packages(code))
    wrong = []
    for path in tests:
        folder, name = _split(path)
        if folder.split("/")[0] in ("support", "whole") or path in ("conftest.py", *NO_MODULE):
            continue
        if folder.endswith("/files"):  # what stored files were written with
            continue
        words = name.removeprefix("test_").split("_")
        about = ("_".join(words[: count + 1]) for count in range(len(words)))
        if name.startswith("test_") and any(
            f"{folder}/{one}".removeprefix("/") in known for one in about
        ):
            continue
        wrong.append(path)
    return wrong


def test_each_package_has_its_folder_of_tests() -> None:
    assert without_tests(list(CODE), TEST_FILES) == []


def test_a_test_is_named_after_a_module_that_is_there() -> None:
    assert about_nothing(list(CODE), TEST_FILES) == []


def borrowing(tests: Tree) -> list[str]:
    """Files that import from a test: what tests share lies in `support`."""
    borrowed = re.compile(r"^from tests\.([\w.]+\.)?test_\w+ import", re.MULTILINE)
    return [path for path, text in tests.items() if borrowed.search(text)]


def test_tests_do_not_import_each_other() -> None:
    assert borrowing(_tree(TESTS)) == []
    assert borrowing({"a.py": "from tests.arq.test_worker import add\n"}) == ["a.py"]
    assert borrowing({"a.py": "from tests.support.jobs import make_job\n"}) == []


@pytest.mark.parametrize("path", NO_MODULE)
def test_an_exception_is_needed(path: str) -> None:
    assert path in TEST_FILES
    assert about_nothing(list(CODE), [path.replace("test_", "test_x", 1)])


# The checks themselves: each sees what it is there for.


def test_the_checks_of_the_package_see_what_is_wrong() -> None:
    twelve = [f"a/m{number}.py" for number in range(12)]
    assert too_large(["a/__init__.py", *twelve]) == []
    assert too_large(["a/__init__.py", *twelve, "a/b/__init__.py", "a/b/m.py"]) == []
    assert too_large(["a/__init__.py", *twelve, "a/one_more.py"]) == ["a"]

    good = {"a/__init__.py": '"""One sentence: with words.\n\nAnd more. And more.\n"""'}
    assert not_one_sentence(good) == []
    for text in (
        "",
        '"""One. And another."""',
        '"""No end"""',
        '"""It goes on\nbelow."""',
        '"""One.\nAnd more."""',
    ):
        assert not_one_sentence({"a/__init__.py": text}) == ["a/__init__.py"], text
    assert not_documented({"a.py": "x = 1", "b.py": '"""Said."""'}) == ["a.py"]

    assert said_twice(["fleet/front.py", "stores/redis/store.py", "stores/redis/__init__.py"]) == []
    for path in (
        "fleet/fleet.py",
        "fleet/fleet_members.py",
        "stores/store.py",
        "stores/redis/redis_link.py",
        "sharing/redis_queues.py",
        "web/operations/operation_view.py",
        "engine/lines/line_of_jobs.py",
        "executors/process/parent/child_process.py",
        "web/vera/vera_log/__init__.py",
    ):
        assert said_twice([path]) == [path]
    assert taken_or_empty(["a/queue.py", "site/b.py", "a/utils.py", "a/queues.py"]) == [
        "queue",
        "site",
        "utils",
    ]


def test_the_checks_of_the_tests_see_what_is_wrong() -> None:
    code = ["__init__.py", "runtime.py", "a/__init__.py", "a/one_way.py", "a/b/__init__.py"]
    assert without_tests(code, ["a/b/test_x.py"]) == []
    assert without_tests(code, ["a/test_one_way.py", "test_runtime.py"]) == ["a/b"]
    right = [
        "test_runtime.py",
        "a/test_one_way.py",
        "a/test_one_way_back.py",
        "a/test_b.py",
        "whole/e2e/anything.py",
        "support/anything.py",
    ]
    assert about_nothing(code, right) == []
    for path in (
        "test_gone.py",
        "a/test_one.py",
        "a/test_runtime.py",
        "a/helpers.py",
        "a/b/test_one_way.py",
        "gone/test_one_way.py",
    ):
        assert about_nothing(code, [path]) == [path]


def test_the_longest_files_and_functions_can_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    x = 1\n    return x\n\n\ndef g(): ...\n")
    (tmp_path / "b.py").write_text('"""Short."""\n')
    script = ROOT / "scripts" / "longest"
    shown = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    place = tmp_path.name
    assert shown.stdout.splitlines() == [
        "The longest files, in lines:",
        f"     6  {place}/a.py",
        f"     1  {place}/b.py",
        "The longest functions, in lines:",
        f"     3  {place}/a.py:1 f",
        f"     1  {place}/a.py:6 g",
    ]
    whole = subprocess.run([script], capture_output=True, text=True, check=True).stdout
    assert len(whole.splitlines()) == 22


# What stands above the runtime, and sees no more of it than its own methods and `doorway`.
DOORS = {
    *("arq", "cli", "client", "fleet", "standalone", "web"),
    *("__main__", "metrics", "progress_bridge", "testing", "tracing"),
}


def test_no_door_reaches_for_a_part_of_the_runtime() -> None:
    rooms = {
        path: path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in PACKAGE.rglob("*.py")
    }
    assert set(rooms.values()) >= DOORS
    reaching = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path, room in rooms.items()
        for line in path.read_text().splitlines()
        if room in DOORS and re.search(r"\._?parts\b", line)
    ]
    assert reaching == []
