"""CONTRIBUTING.md is checked: its commands exist and find tests, its examples stand in the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.support.helpers import ROOT
from tests.support.pages import blocks_in

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
COMMANDS = [line for block in blocks_in(PAGE, "sh") for line in block.splitlines()]
EXAMPLES = re.findall(
    r"^(Bad|Good)[^:]*?(?:, `([^`]+)`)?[^`\n]*:\n\n```python\n(.*?)^```$", PAGE, re.M | re.S
)
MODULES = {path: path.read_text() for path in (ROOT / "worker_runtime").rglob("*.py")}


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) > 8
    assert len(EXAMPLES) == len(blocks_in(PAGE, "python")) > 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_something(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
        for variable in words[2:]:
            name = variable.partition("=")[0]
            assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), name
    elif words[0] == ".venv/bin/pytest":
        collected = _pytest(*words[1:], "--collect-only", "--quiet")
        assert re.search(r"^\d+(/\d+)? tests? collected|^tests/.+::", collected, re.MULTILINE)
    else:
        assert words[0] == "git"
        assert (ROOT / ".ci" / "run").exists()


def test_the_first_test_that_is_named_runs_and_passes() -> None:
    [first, *_] = [words for words in map(shlex.split, COMMANDS) if "pytest" in words[0]]
    assert " passed" in _pytest(*first[1:], "--quiet")


def _pytest(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "path", "code"), EXAMPLES)
def test_a_good_example_stands_in_the_code_and_a_bad_one_nowhere(
    kind: str, path: str, code: str
) -> None:
    if kind == "Good":
        assert code in MODULES[ROOT / path]
    else:
        shown = _without_indent(code)
        assert [p for p, text in MODULES.items() if shown in _without_indent(text)] == []


def _without_indent(code: str) -> str:
    return "\n".join(line.strip() for line in code.splitlines())


def test_the_benchmarks_and_versions_are_those_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert f"{versions[0]} to {versions[-1]}." in PAGE
    [seconds] = re.findall(r"^timeout = (\d+)$", project, re.MULTILINE)
    assert f"A test has {seconds} s" in PAGE
    for name in re.findall(r"^make bench ARGS=(\w+)$", PAGE, re.MULTILINE):
        assert (ROOT / "benchmarks" / f"{name}.py").exists()
