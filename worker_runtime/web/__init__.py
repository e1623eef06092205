"""The HTTP doors: `mount` an API into an aiohttp application, or `build_app` a whole one.

Each folder is one dialect, the whole contract of one kind of client, and imports no other; `wire`
is what they share. `app` puts them onto an application, with the paths that are common to all.
"""

from worker_runtime.web.app import build_app, mount

__all__ = ["build_app", "mount"]
