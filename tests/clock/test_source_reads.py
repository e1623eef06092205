"""Time is read in one place: no module of the package asks the machine for it by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker_runtime

PACKAGE = Path(worker_runtime.__file__).parent
SOURCE = "clock/source.py"

# An event loop's own time is read only to be handed back to it.
OF_THE_LOOP = {
    ("engine/dispatcher.py", "_set_timer"): "for `loop.call_at`",
}
# Defaults of what may be used without a runtime; whoever has one passes its clock on.
SYSTEM_IN = {
    SOURCE: "where it is made",
    "stores/boundary.py": "`Host`: a store that is opened to be looked at",
    "web/sandbox/simulated_task.py": "`builtin_tasks`: made before the runtime they are given to",
}

_HOMES = frozenset({"time", "datetime"})
_CLASSES = frozenset({"datetime", "date"})
_OF_DATETIME = frozenset({"now", "today", "utcnow"})
_PASSES_TIME = frozenset({"sleep"})  # all else in `time` reads a clock, or does where it may


def reads(tree: ast.AST, function: str = "") -> Iterator[tuple[int, str, str]]:
    """Each reading of a clock below `tree`: its line, the function that it stands in, the words."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from ((node.lineno, inside, words) for words in _words(node))  # type: ignore[attr-defined]
        yield from reads(node, inside)


def _words(node: ast.AST) -> list[str]:
    match node:
        case ast.ImportFrom(module="time", names=names):
            return [f"from time import {n.name}" for n in names if n.name not in _PASSES_TIME]
        # Under another name they would not be found below.
        case ast.Import(names=names):
            return [f"{n.name} as {n.asname}" for n in names if n.name in _HOMES and n.asname]
        case ast.ImportFrom(module="datetime", names=names):
            return [f"{n.name} as {n.asname}" for n in names if n.name in _CLASSES and n.asname]
        case ast.Attribute(value=ast.Name(id="time"), attr=attr) if attr not in _PASSES_TIME:
            return [f"time.{attr}"]
        case ast.Attribute(attr=attr, value=ast.Name(id="datetime" | "date" as kind)):
            return [f"{kind}.{attr}"] if attr in _OF_DATETIME else []
        case ast.Attribute(attr=attr, value=ast.Attribute(attr="datetime" | "date" as kind)):
            return [f"{kind}.{attr}"] if attr in _OF_DATETIME else []
        case ast.Call(func=ast.Attribute(attr="time", value=owner), args=[], keywords=[]):
            is_module = isinstance(owner, ast.Name) and owner.id == "time"
            return [] if is_module else ["loop.time()"]
        case ast.Call(func=ast.Name(id="formatdate") | ast.Attribute(attr="formatdate"), args=[]):
            return ["formatdate() of now"]
    return []


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def test_only_the_clock_reads_the_time() -> None:
    others = []
    of_the_loop = set()
    for name, tree in _modules():
        for line, function, words in reads(tree):
            if words == "loop.time()" and (name, function) in OF_THE_LOOP:
                of_the_loop.add((name, function))
            elif name != SOURCE:
                others.append(f"{name}:{line} {words}")
    assert others == [], "read a Clock: it comes from assembly, `runtime.doorway` or `Host`"
    assert of_the_loop == OF_THE_LOOP.keys(), "an allowance that nobody needs any more"


def test_the_clock_of_nobody_is_a_default_and_nothing_else() -> None:
    users = set()
    for name, tree in _modules():
        named = sum(_is_system(node) for node in ast.walk(tree))
        defaults = sum(_is_system(default) for default in _defaults(tree))
        assert name == SOURCE or named == defaults, f"{name} reads SYSTEM itself"
        if named:
            users.add(name)
    assert users == SYSTEM_IN.keys()


def _is_system(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Name) and node.id == "SYSTEM"


def _defaults(tree: ast.AST) -> Iterator[ast.AST | None]:
    """The defaults of arguments, and of the fields of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            yield from (*node.defaults, *node.kw_defaults)
        elif isinstance(node, ast.ClassDef):
            yield from (field.value for field in node.body if isinstance(field, ast.AnnAssign))


@pytest.mark.parametrize(
    "text",
    [
        "import time\nnow = time.time()",
        "import time\nread = time.perf_counter",
        "import time\nnow = time.time_ns()",
        "import time as t\nnow = t.time()",
        "import time\nhere = time.localtime()",
        "from time import monotonic",
        "from datetime import datetime\nnow = datetime.now(UTC)",
        "import datetime\nnow = datetime.datetime.now()",
        "from datetime import datetime as dt\nnow = dt.now()",
        "from datetime import date\ntoday = date.today()",
        "read = datetime.utcnow",
        "now = asyncio.get_running_loop().time()",
        "now = self._loop.time()",
        "date = formatdate(usegmt=True)",
    ],
)
def test_every_way_to_read_it_is_found(text: str) -> None:
    assert list(reads(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.sleep(1)",
        "from time import sleep",
        "now = clock.wall()",
        "at = datetime.fromtimestamp(now, UTC)",
        "date = formatdate(now_s, usegmt=True)",
    ],
)
def test_what_reads_no_clock_is_not(text: str) -> None:
    assert not list(reads(ast.parse(text)))
