"""HTTP requests to machines that need not be honest: bounded in time and size, never redirected."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from worker_runtime.contracts.incoming import TooManyBytes, read_at_most

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_TEXT_CHARS_MAX = 200
_COPIED_BYTES_MAX = 1 << 19


class FetchFailed(Exception):
    """No usable answer: no connection, too slow, too large or not JSON; the text says which.

    `was_sent` is False where the request cannot have reached the other side.
    """

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class Fetched(msgspec.Struct, frozen=True):
    """An answer. `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body. Raises FetchFailed where it is not JSON."""
        try:
            return _decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FetchFailed(f"the answer is not JSON: {error}") from None

    def text(self, bytes_max: int = _TEXT_CHARS_MAX) -> str:
        """The beginning of the body, for a log line."""
        line = " ".join(self.body[:bytes_max].decode("utf-8", "replace").split())
        return printable(line)


def printable(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    timeout_s: float,
    bytes_max: int,
    json: Any = None,
    token: str | None = None,
) -> Fetched:
    """Send one request and read the whole answer, whatever its status. Raises FetchFailed."""
    headers = {"Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    body: bytes | io.BytesIO | None = None
    if json is not None:
        encoded = _encode(json)
        # aiohttp warns of large bodies that it would copy at once.
        body = encoded if len(encoded) < _COPIED_BYTES_MAX else io.BytesIO(encoded)
        headers["Content-Type"] = "application/json"
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            data = await _read(response, bytes_max)
            named = {name.lower(): value for name, value in response.headers.items()}
            return Fetched(response.status, named, data)
    except TimeoutError:
        raise FetchFailed(f"no answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"[:_TEXT_CHARS_MAX]
        never_left = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
        raise FetchFailed(text, was_sent=not never_left) from None


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    try:
        return await read_at_most(response.content, bytes_max)
    except TooManyBytes:
        response.close()
        text = f"the answer is larger than the {bytes_max} bytes allowed"
        raise FetchFailed(text) from None
