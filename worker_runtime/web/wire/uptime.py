"""How long a runtime has been there, as the dialects' health answers say it."""

from __future__ import annotations

from worker_runtime.runtime import Runtime


def uptime_s(runtime: Runtime) -> int:
    """Whole seconds since the runtime was started; 0 before that."""
    now = runtime.doorway.clock.wall()
    return int(now - (runtime.started_at or now))
