"""A backend of a few lines with a fleet mounted in it, its intervals short. Run as a script."""

from __future__ import annotations

import sys

from aiohttp import web

from worker_runtime.fleet import Fleet, FleetSettings
from worker_runtime.fleet.routes import mount


async def ready(request: web.Request) -> web.Response:
    return web.Response(text="ready")


def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/readyz", ready)
    settings = FleetSettings(check_every_s=0.2, check_timeout_s=1.0, cache_ttl_s=0.05)
    mount(app, Fleet(settings=settings))
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
