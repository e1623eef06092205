"""A type checker accepts right calls of `enqueue` and rejects wrong ones, each where it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.helpers import ROOT

api = pytest.importorskip("mypy.api", reason="mypy is not installed")

SOURCE = Path(__file__).with_name("wrong_calls.txt")


@pytest.mark.timeout(180)
def test_wrong_calls_are_rejected_where_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCE.read_text()
    program = tmp_path / "wrong_calls.py"
    program.write_text(source)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    report, problems, _ = api.run(["--strict", "--config-file=", str(program)])

    found = {int(line) for line in re.findall(r"wrong_calls\.py:(\d+): error:", report)}
    lines = enumerate(source.splitlines(), start=1)
    expected = {number for number, line in lines if line.endswith("# rejected")}
    assert len(expected) >= 10
    assert found == expected, report + problems
