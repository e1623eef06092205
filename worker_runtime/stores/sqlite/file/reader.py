"""Reads the file beside the writer, on a thread and a connection of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worker_runtime.errors import StoreUnavailable
from worker_runtime.stores.sqlite.file.schema import Connect, open_reader


class Reader:
    """Sees every committed change and never holds up the writer. To be opened before its use, so
    that a look at a store that nobody has opened does not make its file."""

    def __init__(self, path: str, connect: Connect) -> None:
        self._path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._is_open = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker-runtime-reader")

    def open(self) -> None:
        self._is_open = True

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Raises StoreUnavailable where the file is not open or cannot be read."""
        if not self._is_open:
            raise StoreUnavailable("the store is not open")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._rows, sql, parameters)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store cannot be read: {error}") from error

    async def close(self) -> None:
        self._is_open = False
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = open_reader(self._path, self._connect)
        return self._connection.execute(sql, parameters).fetchall()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
