"""Charlie: gauges and supplies."""

from __future__ import annotations

from examples.sector7g.base import REDIS_SETTINGS, Hooks
from examples.sector7g.tasks import pausing

_hooks = Hooks("arq:queue:charlie")


class WorkerSettings:
    functions = (
        pausing("monitor_gauges_task", 0.7),
        pausing("restock_break_room_task", 0.7),
        pausing("charlie_sim_task", 1.0),
    )
    redis_settings = REDIS_SETTINGS
    queue_name = "arq:queue:charlie"
    max_jobs = 10
    job_timeout = 120
    max_tries = 3
    keep_result = 3600
    health_check_interval = 15
    on_startup = _hooks.on_startup
    on_shutdown = _hooks.on_shutdown
    on_job_start = _hooks.on_job_start
    after_job_end = _hooks.after_job_end
