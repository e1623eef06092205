"""What `benchmarks.durable` needs besides its tables: raw SQLite, and two child processes.

python -m benchmarks.durable_parts serve URL      serve on a free port, printed first
python -m benchmarks.durable_parts recover PATH   print seconds and bytes that recovery took
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop
from aiohttp import web

from benchmarks import serving
from worker_runtime import Runtime, Settings, task
from worker_runtime.standalone.server import set_collector
from worker_runtime.stores.sqlite.file.schema import open_writer
from worker_runtime.stores.sqlite.rows import ALL, CHANGING
from worker_runtime.web import build_app

_INSERT = f"INSERT INTO worker_jobs ({', '.join(ALL)}) VALUES ({', '.join('?' * len(ALL))})"
_UPDATE = f"UPDATE worker_jobs SET {', '.join(f'{name} = ?' for name in CHANGING)} WHERE place = ?"


def rows(count: int, state: str) -> list[list[Any]]:
    """Rows as the store writes them for `add(1, 2)`."""
    payload = msgspec.msgpack.encode(((1, 2), None))
    now = time.time()
    is_running = state == "running"
    started_at = now if is_running else None
    changing = [state, int(is_running), 0, 0.0, started_at, None, None, None, None, None]
    return [
        [place, f"{place:032x}", "add", "default", 2, now, payload, None, 0, *changing]
        for place in range(1, count + 1)
    ]


def raw_jobs(path: Path, count: int, *, per_transaction: int = 100, updates: bool = True) -> float:
    """Insert and then update `count` rows, durably: jobs a second."""
    connection = open_writer(str(path), is_durable=True)
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    made = rows(count, "running")
    started_at = time.perf_counter()
    for first in range(0, count, per_transaction):
        part = made[first : first + per_transaction]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, part)
        connection.execute("COMMIT")
        if updates:
            now = time.time()
            ended = ("completed", 1, 0, 0.0, now, now, None, b"\x03", None, None)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPDATE, [(*ended, row[0]) for row in part])
            connection.execute("COMMIT")
    seconds = time.perf_counter() - started_at
    connection.close()
    return count / seconds


def fill(path: Path, count: int) -> None:
    """Make a file with `count` queued jobs."""
    connection = open_writer(str(path), is_durable=False)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows(count, "queued"))
    connection.execute("COMMIT")
    connection.close()


@task
async def add(a: int, b: int) -> int:
    return a + b


def serve(url: str) -> None:
    async def app() -> web.Application:
        settings = Settings(concurrency=64, queue_capacity=100_000, store=url)
        runtime = Runtime([add], settings=settings)
        await runtime.start()
        made = build_app(runtime)
        set_collector()
        return made

    serving.main(serving.aiohttp_app(app))


def recover(path: str) -> None:
    async def run() -> None:
        settings = Settings(concurrency=1, queue_capacity=2_000_000, store=f"sqlite:///{path}")
        runtime = Runtime({"add": hold}, settings=settings)
        before_bytes = psutil.Process().memory_info().rss
        started_at = time.perf_counter()
        await runtime.start()
        seconds = time.perf_counter() - started_at
        print(seconds, psutil.Process().memory_info().rss - before_bytes, flush=True)
        os._exit(0)  # a stop would wait for the held job

    async def hold(a: int, b: int) -> int:
        await asyncio.Event().wait()
        return a + b

    uvloop.run(run())


if __name__ == "__main__":
    {"serve": serve, "recover": recover}[sys.argv[1]](*itertools.islice(sys.argv, 2, None))
