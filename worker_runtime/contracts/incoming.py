"""What comes in over HTTP, read alike at every door: bytes within a bound, words for yes and no."""

from __future__ import annotations

import asyncio

import aiohttp

_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off", ""})


class TooManyBytes(Exception):
    """More has come than is allowed; the rest was not read."""


async def read_at_most(
    content: aiohttp.StreamReader, bytes_max: int, *, timeout_s: float | None = None
) -> bytes:
    """All of `content`. Raises TooManyBytes as soon as there are more than `bytes_max`, and
    TimeoutError where it takes longer than `timeout_s` (aiohttp itself would wait for ever)."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(timeout_s):
        while not content.at_eof():
            part = await content.readany()
            size += len(part)
            if size > bytes_max:
                raise TooManyBytes
            parts.append(part)
    return b"".join(parts)


def truth_of(text: str) -> bool | None:
    """What a word in a query means, in any case of letters; None for one that is neither."""
    word = text.lower()
    return True if word in _YES else False if word in _NO else None
