"""How a server that is measured runs: in a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvicorn
import uvloop
from aiohttp import web
from fastapi import FastAPI

Serve = Callable[[socket.socket], Awaitable[None]]
"""Serves on a socket that listens already, until the process is killed."""


def aiohttp_app(make: Callable[[], Awaitable[web.Application]]) -> Serve:
    async def serve(sock: socket.socket) -> None:
        runner = web.AppRunner(await make(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        await asyncio.Event().wait()

    return serve


def fastapi_app(make: Callable[[], FastAPI]) -> Serve:
    async def serve(sock: socket.socket) -> None:
        config = uvicorn.Config(make(), http="httptools", access_log=False, log_level="error")
        await uvicorn.Server(config).serve(sockets=[sock])

    return serve


def main(serve: Serve) -> None:
    """Listen, print the port, and serve until the process is killed."""

    async def run(sock: socket.socket) -> None:
        await serve(sock)

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        print(sock.getsockname()[1], flush=True)
        uvloop.run(run(sock))
