"""The loop option and the polling helper do what the other tests rely on."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers import eventually, free_port


@pytest.mark.both_loops
async def test_each_loop(request: pytest.FixtureRequest) -> None:
    loop = type(asyncio.get_running_loop()).__module__
    wanted = "uvloop" if "uvloop" in request.node.name else "asyncio"
    assert loop.startswith(wanted)


async def test_eventually_returns_the_first_truthy_value() -> None:
    seen = iter([0, "", "there"])
    assert await eventually(lambda: next(seen)) == "there"


async def test_eventually_names_the_condition_that_never_came() -> None:
    with pytest.raises(AssertionError, match=r"the moon: still False after 0\.02 s"):
        await eventually(lambda: False, 0.02, what="the moon")


async def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        assert server.sockets[0].getsockname()[1] == port
