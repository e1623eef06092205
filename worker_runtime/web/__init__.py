"""The HTTP doors: `mount` an API into an aiohttp application, or `build_app` a whole one.

Every module here but `mount` and `wire` is one dialect, interchangeable behind `wire.Dialect`;
none imports another.
"""

from worker_runtime.web.app import build_app, mount

__all__ = ["build_app", "mount"]
