"""Servers for the Redis tests: one shared by most, emptied before each test, and ones to kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.arq_env import NEWEST, ask, make_environment
from tests.support.redis_server import RedisServer


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install arq before the tests that need it: no time limit of a test is meant for that."""
    modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
    if not session.config.option.collectonly and any(
        getattr(module, "ask", None) is ask for module in modules
    ):
        make_environment(NEWEST)


@pytest.fixture(scope="session")
def _shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def server(_shared_server: RedisServer) -> RedisServer:
    with _shared_server.client() as client:
        client.flushall()
    return _shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that belong to the test: `own_server(appendonly=True)`."""
    made: list[RedisServer] = []

    def start(**options: object) -> RedisServer:
        directory = tmp_path / f"redis-{len(made)}"
        directory.mkdir()
        server = RedisServer(directory, **options)  # type: ignore[arg-type]
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.close()
