"""Inanimate Carbon Rod: system maintenance."""

from __future__ import annotations

from examples.sector7g.base import REDIS_SETTINGS, Hooks
from examples.sector7g.tasks import cleanup_temp_files, pausing, system_health_check

_hooks = Hooks("arq:queue:inanimate_rod")


class WorkerSettings:
    functions = (
        system_health_check,
        cleanup_temp_files,
        pausing("inanimate_rod_sim_task", 1.0),
    )
    redis_settings = REDIS_SETTINGS
    queue_name = "arq:queue:inanimate_rod"
    max_jobs = 15
    job_timeout = 300
    max_tries = 3
    keep_result = 3600
    health_check_interval = 15
    on_startup = _hooks.on_startup
    on_shutdown = _hooks.on_shutdown
    on_job_start = _hooks.on_job_start
    after_job_end = _hooks.after_job_end
