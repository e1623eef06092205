"""Nobody outside of the stores asks which one there is, or reaches into it; only one speaks Redis.

What the stores do behind the boundary is the business of `tests/whole/contract/stores`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker_runtime
from tests.support.helpers import ROOT

PACKAGE = Path(worker_runtime.__file__).parent
STORES = PACKAGE / "stores"
DOUBLE = ROOT / "tests" / "support" / "dict_store.py"
MODULES = sorted(PACKAGE.rglob("*.py"))
SPEAK_REDIS = (STORES / "redis", PACKAGE / "arq")
# Ways to a connection, and from one to commands.
CONNECTS = {"connect", "connect_blocking", "pipeline", "pubsub", "execute_command", "scan_iter"}


def outside(*folders: Path) -> list[Path]:
    found = [path for path in MODULES if not any(path.is_relative_to(f) for f in folders)]
    assert found
    return found


def places(pattern: str, paths: list[Path]) -> list[str]:
    """Where a line of one of the files has the pattern."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]


def trees(paths: list[Path]) -> Iterator[tuple[str, ast.Module]]:
    for path in paths:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


@pytest.mark.parametrize(
    "pattern",
    [
        r"isinstance\([^)]*(Sqlite|Redis|Memory)Store",
        r"\bstore\.kind [!=]= ",
        r"_?shared is (not )?None",
        r"\b_?store is (not )?None",
    ],
)
def test_nobody_asks_which_store_there_is(pattern: str) -> None:
    assert places(pattern, outside(STORES, PACKAGE / "assembly.py")) == []


def test_what_a_store_cannot_do_it_refuses_in_words() -> None:
    """A caller gets `lacks`, and never an assertion."""
    paths = [path for path in MODULES if path.is_relative_to(STORES)] + [DOUBLE]
    methods = [
        (f"{name}:{method.lineno}", method)
        for name, tree in trees(paths)
        for kind in tree.body
        if isinstance(kind, ast.ClassDef) and kind.name.endswith("Store")
        for method in kind.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        if not method.name.startswith("_")
    ]
    assert len(methods) > 50
    silent = {"AssertionError", "NotImplementedError"}
    found = [
        where
        for where, method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Raise) and node.exc is not None
        if silent & {name.id for name in ast.walk(node.exc) if isinstance(name, ast.Name)}
    ]
    assert found == []


def test_a_store_is_whole_when_it_is_opened() -> None:
    """Nothing is set on one from outside."""
    found = []
    for name, tree in trees(outside(STORES)):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
                continue
            if _last_name(node.value).endswith("store"):
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_only_the_redis_store_and_the_arq_side_speak_redis() -> None:
    """Whoever has no connection cannot: the store's own is private, and nobody else makes one."""
    redis = pytest.importorskip("redis.asyncio")
    commands = {name for name in dir(redis.Redis) if not name.startswith("_")} - {"wait"}
    found = []
    for name, tree in trees(outside(*SPEAK_REDIS)):
        imported = {
            getattr(node, "module", None) or node.names[0].name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        if "redis" in {module.partition(".")[0] for module in imported}:
            found.append(f"{name}: imports redis")
        if not any(module.startswith("worker_runtime.stores.redis") for module in imported):
            continue
        for node in ast.walk(tree):
            called = node.value if isinstance(node, ast.Await) else node
            if not isinstance(called, ast.Call) or not isinstance(called.func, ast.Attribute):
                continue
            if called.func.attr in (commands if isinstance(node, ast.Await) else CONNECTS):
                found.append(f"{name}:{called.lineno}: {called.func.attr}")
    assert found == []


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
