"""Responses whose headers are known beforehand: worked out once, and written with the body at once.

aiohttp builds and checks the headers of each response anew, which costs as much as a small job.
Where a request or somebody's middleware asks for anything unusual, the response goes aiohttp's way.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

from worker_runtime.clock.source import Clock


class Tail:
    """What follows the body's length in the answers of one application; the date in it changes once
    a second."""

    __slots__ = ("_bytes", "_made_s", "_wall")

    def __init__(self, clock: Clock) -> None:
        self._wall = clock.wall
        self._bytes = b""
        self._made_s = 0

    def now(self) -> bytes:
        now_s = int(self._wall())
        if now_s != self._made_s:
            date = formatdate(now_s, usegmt=True)
            self._bytes = f"\r\nDate: {date}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n".encode()
            self._made_s = now_s
        return self._bytes


TAIL = web.AppKey("tail", Tail)
"""Where an application has it. In one without, answers go aiohttp's way."""


class FixedHeaders:
    """The headers of many responses. Content-Length, Date and Server are added to each.

    Raises ValueError for a value with a line break.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        if any(c in text for field in headers.items() for text in field for c in "\r\n\0"):
            raise ValueError("a header contains a line break or a null character")
        self.fields = dict(headers)
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._heads: dict[int, tuple[bytes, dict[str, Any]]] = {}

    def respond(self, body: bytes, status: int = 200) -> web.Response:
        """A response with this body, which may not be empty."""
        made = self._heads.get(status)
        if made is None:
            made = self._heads[status] = self._head(status)
        return _Whole(body, self.fields, *made)

    def _head(self, status: int) -> tuple[bytes, dict[str, Any]]:
        """Its bytes up to the body's length, and what aiohttp keeps of such a response."""
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        kept = dict(vars(web.Response(status=status)))
        del kept["_headers"]
        return f"{line}{self._lines}Content-Length: ".encode(), kept


class _Whole(web.Response):
    """Made as a copy of what a plain response consists of; its own headers only on demand."""

    # Quicker to get at than a dict.
    __slots__ = ("_fields", "_head", "_own_headers", "_tail", "_writer")

    _tail: Tail

    def __init__(
        self, body: bytes, fields: Mapping[str, str], head: bytes, kept: Mapping[str, Any]
    ) -> None:
        self.__dict__.update(kept)
        self._state = {}
        self._body: bytes = body
        self._fields = fields
        self._head = head
        self._writer: AbstractStreamWriter | None = None
        self._own_headers: CIMultiDict[str] | None = None

    @property
    def _headers(self) -> CIMultiDict[str]:  # type: ignore[override]
        """For aiohttp, and whoever looks at them or adds one."""
        if self._own_headers is None:
            self._own_headers = CIMultiDict(self._fields)
        return self._own_headers

    def set_status(self, status: int, reason: str | None = None) -> None:
        self._own_headers = self._headers  # it is no longer what its head was made for
        super().set_status(status, reason)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self._writer is None and not self._is_plain(request):
            return await super().prepare(request)
        self._keep_alive = True
        self._writer = request.writer
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        writer = self._writer
        if writer is None:
            await super().write_eof(data)
            return
        body = self._body
        # The writer waits by itself only where much was written; a client that reads nothing and
        # goes on asking would fill the memory with small answers.
        await writer.write(b"%b%d%b%b" % (self._head, len(body), self._tail.now(), body))
        transport = writer.transport
        if transport is not None and transport.get_write_buffer_size():
            await writer.drain()
        self._body_length = writer.output_size
        self._eof_sent = True
        self._writer = None

    def _is_plain(self, request: web.BaseRequest) -> bool:
        """Whether aiohttp would write just these headers, and keep the connection."""
        if (
            self._own_headers is not None
            or self._keep_alive is not None
            or self._cookies
            or self._compression
            or self._chunked
            or not request.keep_alive
            or request.version != HttpVersion11
            or request.method == hdrs.METH_HEAD
            or type(request) is not web.Request
        ):
            return False
        apps = request.match_info.apps
        tail = apps[-1].get(TAIL)  # the innermost: the one that has the route
        if tail is None or any(app.on_response_prepare for app in apps):
            return False
        self._tail = tail
        return True
