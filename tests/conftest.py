"""What every test runs under: its event loop, and none of the developer's own settings."""

from __future__ import annotations

import asyncio
import os
import sys
import typing
from collections.abc import Callable, Mapping

import hypothesis
import pytest

from worker_runtime.environment import variables_of
from worker_runtime.settings import Settings

# The same examples each time, and none of them late: a change passes or fails by what it does. To
# look for new ones: `make test ARGS=--hypothesis-profile=search`.
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fixed")

pytest_plugins = ["tests.support.time_limits", "tests.support.redis_fixtures"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _loop_factories() -> dict[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop-kind",
        choices=[*_loop_factories(), "both"],
        default="uvloop" if sys.platform != "win32" else "asyncio",
        help="event loop for async tests; those marked both_loops run on each one anyway",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    factories = _loop_factories()
    kind: str = config.getoption("--loop-kind")
    if kind == "both" or item.get_closest_marker("both_loops") is not None:
        return factories
    return {kind: factories[kind]}


@pytest.fixture(autouse=True)
def _only_the_tests_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WORKER_STORE or PORT that the developer has exported must not reach a test."""
    for hint in typing.get_type_hints(Settings, include_extras=True).values():
        for name in variables_of(hint):
            if name in os.environ:
                monkeypatch.delenv(name)
