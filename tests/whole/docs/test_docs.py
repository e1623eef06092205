"""The programs in the pages of docs/ are run, and print what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.helpers import ROOT, run_program

BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("job_options", "limits_and_workflows", "testing_and_tracing")
]
PROGRAMS = [
    pytest.param(*found, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, found in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_program_has_its_output(page: Path) -> None:
    text = page.read_text()
    assert text.count("```python\n") == len(BLOCK.findall(text)) > 0


@pytest.mark.parametrize(("source", "output"), PROGRAMS)
def test_a_program_prints_what_the_page_says(tmp_path: Path, source: str, output: str) -> None:
    done = run_program(tmp_path, source)
    assert (done.returncode, done.stdout) == (0, output), done.stderr
