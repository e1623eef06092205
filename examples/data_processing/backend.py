"""A backend in front of the data-processing workers: a registry, dispatch and operations, mounted
into an application of one's own."""

from __future__ import annotations

import os

from aiohttp import web

from worker_runtime.fleet import CompletedOperation, Fleet, FleetSettings, mount


def note(ended: CompletedOperation) -> None:
    """An operation ended while its worker could not reach us."""
    print(f"{ended.operation_id} {ended.status}", flush=True)


async def health(request: web.Request) -> web.Response:
    return web.json_response({"status": "healthy"})


def main() -> None:
    app = web.Application()
    app.router.add_get("/health", health)
    settings = FleetSettings(policy="least_load", token=os.environ.get("WORKER_TOKEN"))
    mount(app, Fleet(settings=settings, on_completed=note))
    web.run_app(
        app,
        host=os.environ.get("BACKEND_HOST", "127.0.0.1"),
        port=int(os.environ.get("BACKEND_PORT", "8000")),
    )


if __name__ == "__main__":
    main()
