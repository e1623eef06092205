"""Why tests of arq's suite do not pass against our worker."""

from __future__ import annotations

_INSIDE = "looks inside arq's Worker: "

REASONS: dict[str, str] = {
    "test_worker::test_worker_signal_completes_job_before_shutting_down": (
        _INSIDE + "calls its signal handler; here the process that runs the worker owns signals "
        "(`job_completion_wait` is tested in tests/standalone)"
    ),
    "test_worker::test_job_retry_race_condition": (
        _INSIDE + "replaces `start_jobs`; the race is inside one Lua script here"
    ),
    "test_worker::test_log_health_check": (
        "runs `main()` three times and expects one worker's counters; the adapter starts a new "
        "worker each time"
    ),
    "test_worker::test_queue_read_limit_equals_max_jobs": _INSIDE + "`queue_read_limit`",
    "test_worker::test_queue_read_limit_calc": _INSIDE + "`queue_read_limit`",
    "test_worker::test_custom_queue_read_limit": _INSIDE + "`queue_read_limit`",
    "test_worker::test_max_bursts_dont_get": _INSIDE + "calls `_poll_iteration`",
    "test_worker::test_multi_exec": _INSIDE + "calls `start_jobs`; no WATCH is used here",
    "test_worker::test_worker_timezone_defaults_to_system_timezone": _INSIDE + "`timezone`",
    "test_worker::test_worker_retry[exception_thrown0]": _INSIDE + "patches its Redis parser",
    "test_worker::test_worker_retry[exception_thrown1]": _INSIDE + "patches its Redis parser",
    "test_worker::test_worker_crash[exception_thrown0]": (
        "expects the worker to end on a connection error; ours goes on"
    ),
    "test_worker::test_worker_crash[exception_thrown1]": (
        "expects the worker to end on a connection error; ours goes on"
    ),
    "test_cron::test_calculate_next_is_called_with_aware_datetime": (
        _INSIDE + "expects `CronJob.calculate_next` to be called; schedules are read, not run"
    ),
}
