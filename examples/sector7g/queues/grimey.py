"""Frank Grimes: one audit at a time."""

from __future__ import annotations

from examples.sector7g.base import REDIS_SETTINGS, Hooks
from examples.sector7g.tasks import pausing

_hooks = Hooks("arq:queue:grimey")


class WorkerSettings:
    functions = (pausing("grimey_sim_task", 20.0),)
    redis_settings = REDIS_SETTINGS
    queue_name = "arq:queue:grimey"
    max_jobs = 1
    job_timeout = 600
    max_tries = 1
    keep_result = 3600
    health_check_interval = 60
    on_startup = _hooks.on_startup
    on_shutdown = _hooks.on_shutdown
    on_job_start = _hooks.on_job_start
    after_job_end = _hooks.after_job_end
