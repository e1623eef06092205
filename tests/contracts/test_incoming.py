"""What comes in over HTTP is bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from unittest import mock

import aiohttp
import pytest

from worker_runtime.contracts.incoming import TooManyBytes, read_at_most, truth_of


def arriving(*parts: bytes, ends: bool = True) -> aiohttp.StreamReader:
    content = aiohttp.StreamReader(
        mock.Mock(_reading_paused=False), 1 << 16, loop=asyncio.get_running_loop()
    )
    for part in parts:
        content.feed_data(part)
    if ends:
        content.feed_eof()
    return content


async def test_all_of_it_up_to_the_bound() -> None:
    assert await read_at_most(arriving(), 3) == b""
    assert await read_at_most(arriving(b"a", b"bc"), 3) == b"abc"
    with pytest.raises(TooManyBytes):
        await read_at_most(arriving(b"a", b"bcd"), 3)


async def test_too_much_is_noticed_before_it_ends() -> None:
    with pytest.raises(TooManyBytes):
        await read_at_most(arriving(b"abcd", ends=False), 3)


async def test_what_never_ends_takes_no_longer_than_allowed() -> None:
    with pytest.raises(TimeoutError):
        await read_at_most(arriving(b"a", ends=False), 3, timeout_s=0.01)


def test_words_for_yes_and_no() -> None:
    assert [truth_of(word) for word in ("true", "1", "YES", "On")] == [True] * 4
    assert [truth_of(word) for word in ("false", "0", "NO", "Off", "")] == [False] * 5
    assert [truth_of(word) for word in ("maybe", " true", "10")] == [None] * 3
