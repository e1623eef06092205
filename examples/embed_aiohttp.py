r"""A runtime inside an aiohttp application of one's own: python examples/embed_aiohttp.py

    curl -X POST 'http://127.0.0.1:8081/users?name=Ada'
    curl http://127.0.0.1:8081/background/jobs

The application answers at once, and the mail is sent after. When the process is told to stop
(SIGTERM, Ctrl-C), it first finishes what it accepted.
"""

from __future__ import annotations

import asyncio
import math
import os

from aiohttp import web

from worker_runtime import Retry, Runtime, Unavailable, task
from worker_runtime.web import mount


@task(queue="mail", timeout_s=30, retry=Retry(max_attempts=5))
async def send_welcome(user: str) -> str:
    await asyncio.sleep(0.05)  # the mail server's answer
    print(f"welcomed {user}", flush=True)
    return f"welcome, {user}"


async def create_user(request: web.Request) -> web.Response:
    runtime = request.app[RUNTIME]
    try:
        job = await runtime.enqueue(send_welcome, request.query.get("name", "nobody"))
    except Unavailable as error:  # the queue is full, or the application stops
        raise web.HTTPServiceUnavailable(
            text=str(error), headers={"Retry-After": str(math.ceil(error.retry_after_s))}
        ) from error
    return web.json_response({"created": True, "mail": job.id}, status=201)


async def finish_jobs(app: web.Application) -> None:
    # Called when the application stops, before `mount(manage=True)` closes the runtime.
    await app[RUNTIME].drain(within_s=10)


RUNTIME: web.AppKey[Runtime] = web.AppKey("runtime", Runtime)


def make_app() -> web.Application:
    app = web.Application()
    app[RUNTIME] = Runtime([send_welcome], concurrency=4)
    app.router.add_post("/users", create_user)
    mount(app, app[RUNTIME], prefix="/background", manage=True)
    app.on_shutdown.append(finish_jobs)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8081")))
    print("stopped")
