"""The core knows no foreign system by name: each one's contract is an affair of its own folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import worker_runtime

PACKAGE = Path(worker_runtime.__file__).parent

# Those that speak with a foreign system, or are what both ends of its contract agree on.
DOORS = (
    "web/sandbox",
    "web/vera",
    "web/operations",
    "fleet",
    "arq",
    "contracts",
    "progress_bridge.py",
    "stores/redis/wire",
)
SYSTEMS = re.compile(r"(?<![a-z])(vera|ktrdr|sandbox|sector)", re.IGNORECASE)

# What else has to name one, and why.
ALLOWED = {
    # The one table of the dialects' classes.
    "web/app.py": r"from worker_runtime\.web\.\w+\.dialect import \w+|\"\w+\": [A-Z]\w+,",
    # Where it is given nothing to serve, it serves the task that comes with a dialect.
    "standalone/target.py": r"from worker_runtime\.web\.sandbox\.simulated_task import \w+",
    # Variables that the deployments of these systems set already.
    "settings.py": r"\"[A-Z]+(_[A-Z]+)+\"",
}

CORE = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if not any(path.is_relative_to(PACKAGE / door) for door in DOORS)
)


def named_in(name: str, text: str) -> list[str]:
    """The lines of a module of the core that name a system and may not."""
    allowed = ALLOWED.get(name)
    left = text if allowed is None else re.sub(allowed, "", text)
    return [line.strip() for line in left.splitlines() if SYSTEMS.search(line)]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_core_names_no_foreign_system(path: Path) -> None:
    assert named_in(path.relative_to(PACKAGE).as_posix(), path.read_text()) == []


def test_a_name_is_found_however_it_is_written() -> None:
    for text in ("is_vera_first", "the Sandbox's task", "KTRDR_URL", "class VeraLog", "sector7"):
        assert named_in("runtime.py", text) == [text]
    assert named_in("runtime.py", "several, on average; the selector") == []


def test_what_is_excepted_is_there_and_needs_it() -> None:
    assert [door for door in DOORS if not (PACKAGE / door).exists()] == []
    assert [n for n, a in ALLOWED.items() if not re.search(a, (PACKAGE / n).read_text())] == []
