"""A page with the health of the six queues, read from Redis as the plant's dashboards read it.

python -m examples.sector7g.health_page [PORT]
"""

from __future__ import annotations

import html
import os
import re
import sys
from typing import Any

from aiohttp import web

from examples.sector7g.base import REDIS_SETTINGS
from worker_runtime.arq import ArqRedis, create_pool

QUEUES = ("inanimate_rod", "homer", "lenny", "carl", "charlie", "grimey")
POOL = web.AppKey("POOL", ArqRedis)
_FIGURE = re.compile(r"(j_\w+|queued)=(\d+)")


async def health_of(pool: ArqRedis, queue: str) -> dict[str, Any]:
    """What the health key and the queue say. A failure rate above 10 % is a warning, above 25 %
    unhealthy; without a key nobody works there."""
    key = f"arq:queue:{queue}"
    queued = await pool.zcard(key)
    line: Any = await pool.get(f"{key}:health-check")
    if line is None:
        return {"queue": queue, "status": "offline", "queued": queued}
    figures = {name: int(value) for name, value in _FIGURE.findall(line.decode())}
    ended = figures["j_complete"] + figures["j_failed"]
    rate = 100 * figures["j_failed"] / ended if ended else 0.0
    status = "unhealthy" if rate > 25 else "warning" if rate > 10 else "healthy"
    return {
        "queue": queue,
        "status": status,
        "queued": queued,
        "ongoing": figures["j_ongoing"],
        "completed": figures["j_complete"],
        "failed": figures["j_failed"],
        "retried": figures["j_retried"],
    }


async def page(request: web.Request) -> web.Response:
    found = [await health_of(request.app[POOL], queue) for queue in QUEUES]
    if "application/json" in request.headers.get("Accept", ""):
        return web.json_response(found)
    columns = ("queue", "status", "queued", "ongoing", "completed", "failed", "retried")
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(one.get(c, '')))}</td>" for c in columns) + "</tr>"
        for one in found
    )
    body = f"<!doctype html><title>Sector 7G</title><table><tr>{head}</tr>{rows}</table>"
    return web.Response(text=body, content_type="text/html")


async def _pool(app: web.Application) -> Any:
    app[POOL] = await create_pool(REDIS_SETTINGS)
    yield
    await app[POOL].aclose()


def application() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(_pool)
    app.router.add_get("/", page)
    return app


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    web.run_app(application(), host=os.environ.get("HOST", "127.0.0.1"), port=port)
