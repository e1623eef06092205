"""A store's file without its worker: looked at, whether or not one runs, or changed, alone."""

from __future__ import annotations

import math
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn
from urllib.parse import quote

from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.sqlite.archive import Archive
from worker_runtime.stores.sqlite.file.reader import Reader
from worker_runtime.stores.sqlite.file.retention import Retention
from worker_runtime.stores.sqlite.file.schema import refusal
from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings


@asynccontextmanager
async def open_offline(path: str) -> AsyncIterator[Archive]:
    """The jobs in the file, as last committed. Raises ConfigurationError where it has none."""
    _check(path)
    reader = Reader(path, _connect)
    reader.open()
    try:
        yield Archive(reader, _refuse, Retention(count_max=0, ttl_s=0.0))
    finally:
        await reader.close()


@asynccontextmanager
async def open_alone(path: str) -> AsyncIterator[Archive]:
    """The jobs in the file, to be changed: the lock keeps every worker away meanwhile. Raises
    ConfigurationError, also where a worker has it open."""
    _check(path)
    settings = SqliteStoreSettings(path=path, kept_count_max=sys.maxsize, kept_ttl_s=math.inf)
    store = SqliteStore(settings)
    await store.open()
    try:
        yield store.archive
    finally:
        await store.close()


def _connect(path: str) -> sqlite3.Connection:
    # Without a log beside the file nobody writes it, and a reader may not create one.
    mode = "mode=ro" if os.path.exists(path + "-wal") else "immutable=1"
    url = f"file:{quote(os.path.abspath(path))}?{mode}"
    return sqlite3.connect(url, uri=True, check_same_thread=False)


def _check(path: str) -> None:
    if not os.path.isfile(path):
        raise ConfigurationError(f"store: there is no file {path}")
    try:
        connection = _connect(path)
        try:
            found = connection.execute(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'worker_jobs'"
            ).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise refusal(path, error) from error
    if not found[0]:
        raise ConfigurationError(
            f"store: {path} has no table worker_jobs, so that no worker kept jobs in it"
        )


async def _refuse(work: Callable[[sqlite3.Connection], Any]) -> NoReturn:
    raise ConfigurationError("store: the file is open for reading only")
