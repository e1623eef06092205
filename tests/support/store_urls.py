"""Where a test of each store keeps its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

STORES = ("memory", "sqlite", "redis")


def url_of(name: str, request: pytest.FixtureRequest, directory: Path) -> str:
    if name == "redis":
        url: str = request.getfixturevalue("server").url
        return url
    return "memory://" if name == "memory" else f"sqlite:///{directory}/jobs.db"
