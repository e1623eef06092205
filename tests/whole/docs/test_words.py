"""docs/words.md: every word has one row, and its home defines the name that is given."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.helpers import ROOT
from tests.support.pages import names_in, tables_in

PAGE = (ROOT / "docs" / "words.md").read_text()
ROWS = [row for table in tables_in(PAGE) if table[0][0] == "word" for row in table[1:]]
HOMES = [(row[0], row[2]) for row in ROWS if len(row) == 3]


def test_no_word_has_two_rows_and_each_table_is_in_order() -> None:
    words = [row[0] for row in ROWS]
    assert len(set(words)) == len(words) > 60
    for table in tables_in(PAGE):
        shown = [row[0] for row in table[1:]]
        assert shown == sorted(shown)


@pytest.mark.parametrize(("word", "home"), HOMES, ids=[word for word, _ in HOMES])
def test_the_home_of_a_word_defines_its_name(word: str, home: str) -> None:
    assert re.fullmatch(r"`[\w/]+`: `[\w.]+`(, `[\w.]+`)*", home), home
    module, *names = names_in(home)
    text = (ROOT / "worker_runtime" / f"{module}.py").read_text()
    defined = set(_defined_in(ast.parse(text)))
    assert set(names) <= defined


def _defined_in(tree: ast.Module | ast.ClassDef, prefix: str = "") -> list[str]:
    """Functions, classes, their methods and their fields."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                found += _defined_in(node, f"{node.name}.")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(prefix + node.target.id)
    return found
