"""docs/delivery.md names a test for every promise; each of them exists."""

from __future__ import annotations

import re

from tests.support.helpers import ROOT


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "delivery.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"


def test_every_promise_names_a_test() -> None:
    page = (ROOT / "docs" / "delivery.md").read_text()
    table = page.partition("| promise | tested by |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line]
    assert rows
    assert all("::test_" in row for row in rows)
