"""A time limit that ends a test also on an event loop that drops what a signal handler raises.

pytest-timeout's handler raises once. On uvloop that exception comes out in a callback of the loop,
which logs it and goes on, so that a test that waits for ever would wait for ever. And where a test
has failed, pytest-timeout no longer watches its teardown. So the handler stops the loop as well,
and the alarm comes again until the test is over; what does not even heed that ends the run.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Generator
from contextlib import suppress
from types import FrameType

import pytest
import pytest_timeout

_AGAIN_AFTER_S = 10.0
_TIMES_MAX = 4


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool | None:
    """None where pytest-timeout's own timer is to be used: without signals, or by its options."""
    if settings.method != "signal" or not hasattr(signal, "setitimer"):
        return None

    times = itertools.count(1)

    def ring(number: int, frame: FrameType | None) -> None:
        if next(times) > _TIMES_MAX:
            pytest_timeout.timeout_timer(item, settings)  # prints where it hangs, and exits
        with suppress(RuntimeError):  # no loop runs
            asyncio.get_running_loop().stop()
        pytest_timeout.timeout_sigalrm(item, settings)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, _AGAIN_AFTER_S)
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
