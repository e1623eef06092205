"""Carl Carlson: inspectors and handoffs."""

from __future__ import annotations

from examples.sector7g.base import REDIS_SETTINGS, Hooks
from examples.sector7g.tasks import pausing

_hooks = Hooks("arq:queue:carl")


class WorkerSettings:
    functions = (
        pausing("handle_inspector_task", 0.5),
        pausing("shift_handoff_task", 0.5),
        pausing("carl_sim_task", 0.6),
    )
    redis_settings = REDIS_SETTINGS
    queue_name = "arq:queue:carl"
    max_jobs = 15
    job_timeout = 120
    max_tries = 3
    keep_result = 3600
    health_check_interval = 15
    on_startup = _hooks.on_startup
    on_shutdown = _hooks.on_shutdown
    on_job_start = _hooks.on_job_start
    after_job_end = _hooks.after_job_end
