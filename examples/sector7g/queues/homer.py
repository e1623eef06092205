"""Homer Simpson: hard work, little at a time."""

from __future__ import annotations

from examples.sector7g.base import REDIS_SETTINGS, Hooks
from examples.sector7g.tasks import pausing

_hooks = Hooks("arq:queue:homer")


class WorkerSettings:
    functions = (
        pausing("eat_donut_task", 2.0),
        pausing("nap_at_console_task", 3.0),
        pausing("attempt_safety_check_task", 2.0),
        pausing("clock_in_task", 2.0),
        pausing("homer_sim_task", 6.0),
    )
    redis_settings = REDIS_SETTINGS
    queue_name = "arq:queue:homer"
    max_jobs = 3
    job_timeout = 600
    max_tries = 1
    keep_result = 3600
    health_check_interval = 120
    on_startup = _hooks.on_startup
    on_shutdown = _hooks.on_shutdown
    on_job_start = _hooks.on_job_start
    after_job_end = _hooks.after_job_end
