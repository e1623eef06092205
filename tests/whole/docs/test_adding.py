"""docs/adding.md: every file that it sends somebody to is there, with the names that it gives."""

from __future__ import annotations

import re

import pytest

from tests.support.helpers import ROOT
from tests.support.pages import names_in, sections_of, tables_in

PAGE = (ROOT / "docs" / "adding.md").read_text()
ROWS = [
    pytest.param(names_in(row[0])[0], names_in(row[1]), id=f"{section}: {names_in(row[0])[0]}")
    for section, text in sections_of(PAGE)
    for table in tables_in(text)
    for row in table[1:]
]


def test_there_is_a_list_for_each_kind_of_thing() -> None:
    lists = [section for section, text in sections_of(PAGE) if tables_in(text)]
    assert len(lists) == 10
    assert len(ROWS) > 50


@pytest.mark.parametrize(("path", "names"), ROWS)
def test_the_file_is_there_with_its_names(path: str, names: list[str]) -> None:
    text = (ROOT / path).read_text()
    missing = [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    assert missing == []
