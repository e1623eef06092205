"""A raw HTTP/1.1 load: as little client as possible, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import time
from typing import cast


class Load:
    """`connections` keep-alive connections, each of which sends `body` again once it is answered.

    Every answer must be a 200, anything else ends the measurement with RuntimeError.
    """

    def __init__(self, port: int, path: str, body: bytes, *, connections: int) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body
        self.answered = 0
        self.is_over = False
        self.failure: str | None = None
        self._port = port
        self._connections = connections

    async def run(self, seconds: float) -> float:
        """Answers a second, over `seconds` after as long a warm-up as a fifth of them."""
        loop = asyncio.get_running_loop()
        opened = [
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            for _ in range(self._connections)
        ]
        await asyncio.sleep(seconds / 5)
        before, started_at = self.answered, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (self.answered - before) / (time.perf_counter() - started_at)
        self.is_over = True
        for transport, _ in opened:
            transport.close()
        if self.failure is not None:
            raise RuntimeError(self.failure)
        return rate


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._end = 0  # of the answer on its way, once its head is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        if not self._end:
            head_end = received.find(b"\r\n\r\n")
            if head_end < 0:
                self._received = received
                return
            head = received[:head_end].lower()
            if not head.startswith(b"http/1.1 200"):
                self._load.failure = received[:500].decode(errors="replace")
            at = head.index(b"content-length:") + 15
            self._end = head_end + 4 + int(head[at : at + 12].partition(b"\r")[0])
        if len(received) < self._end:
            self._received = received
            return
        self._received, self._end = b"", 0
        self._load.answered += 1
        if not self._load.is_over:
            self._transport.write(self._load.request)
