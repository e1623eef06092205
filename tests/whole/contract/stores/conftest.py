"""Every store that the suite knows, one after the other.

`@pytest.mark.needs("after")` marks a test of what a store may lack: on one that does, the test has
to end in the refusal that `places.LACKS` has. `@pytest.mark.differs(redis="...")` marks one that a
store does not pass today and should, with the reason; it has to fail there. `local` stands for all
stores that are not shared.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.whole.contract.stores.places import STORES, Place
from tests.whole.contract.stores.world import World
from worker_runtime import ConfigurationError, InvalidJob, InvalidTransition

REFUSALS = (InvalidJob, InvalidTransition, ConfigurationError)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(feature): what a store may lack")
    config.addinivalue_line("markers", "differs(**reasons): what a store does not do as others do")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each store."""
    return _place(request, tmp_path)


@pytest.fixture(params=[name for name, kind in STORES.items() if kind.outlives])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each store that keeps jobs when a process ends."""
    return _place(request, tmp_path)


@pytest.fixture(params=[name for name, kind in STORES.items() if kind.shared])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each store that several runtimes may work on at a time."""
    return _place(request, tmp_path)


def _place(request: pytest.FixtureRequest, directory: Path) -> Place:
    kind = STORES[request.param]
    differs = request.node.get_closest_marker("differs")
    reasons = {} if differs is None else differs.kwargs
    reason = reasons.get(kind.store.kind) or (None if kind.shared else reasons.get("local"))
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    place = kind.place(request, directory)
    place.kind = kind
    return place


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    needs = pyfuncitem.get_closest_marker("needs")
    places = [value for value in pyfuncitem.funcargs.values() if isinstance(value, Place)]
    sentence = places[0].kind.lacks(needs.args[0]) if needs is not None else None
    if sentence is None:
        return (yield)
    with pytest.raises(REFUSALS) as caught:
        yield
    assert sentence in str(caught.value)
    return True
