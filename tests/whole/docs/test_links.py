"""Every link of a page leads somewhere, and every file and name of the package that a page names is
there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.support.helpers import ROOT
from tests.support.pages import names_in

PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in ("docs", "examples", "tests") for page in (ROOT / folder).rglob("*.md")),
]
# What a page may name that is not ours, or not there before something has run.
NOT_OURS = re.compile(
    r"(load-balancer|workers|client|grafana|ktrdr|Orchestration|BackgroundCognition|arq|app|"
    r"docs/developer|examples/sector7g/\*|\.run|bin|path|data|prometheus)/"
)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_every_file_that_is_named_is_there(page: Path) -> None:
    for name in names_in(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        if not re.fullmatch(r"[\w.-]+/[\w./-]*(\.\w+|/)", name) or NOT_OURS.match(name):
            continue
        places = (ROOT, ROOT / "worker_runtime", page.parent)
        assert any((place / name).exists() for place in places), name


def test_every_name_of_the_package_is_there(page: Path) -> None:
    for name in names_in(page.read_text()):
        if re.fullmatch(r"worker_runtime(\.\w+)+", name) and not is_there(name):
            assert name in LOGGERS, name


# Names of loggers that are no modules.
LOGGERS = frozenset({"worker_runtime.jobs", "worker_runtime.operations"})


def is_there(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    return True
