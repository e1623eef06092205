"""arq's names for those who uninstall it, and a worker that behaves as arq's does.

Read from arq 0.25 to 0.28: the client from `arq/connections.py` and `arq/jobs.py`; the worker, its
settings class and its log lines from `arq/worker.py`, `arq/cron.py` and `arq/cli.py`. How a real
project writes settings classes is from sector-7g's guide to its worker component (lbedner/sector-7g
on GitHub). What lies in Redis is the affair of `stores.redis.wire`.
"""

from worker_runtime.arq.client import (
    ArqRedis,
    Job,
    JobDef,
    JobResult,
    JobStatus,
    create_pool,
)
from worker_runtime.arq.declarations import (
    CronJob,
    Function,
    RedisSettings,
    Retry,
    cron,
    func,
)
from worker_runtime.arq.errors import (
    DeserializationError,
    JobExecutionFailed,
    ResultNotFound,
    SerializationError,
)

__all__ = [
    "ArqRedis",
    "CronJob",
    "DeserializationError",
    "Function",
    "Job",
    "JobDef",
    "JobExecutionFailed",
    "JobResult",
    "JobStatus",
    "RedisSettings",
    "ResultNotFound",
    "Retry",
    "SerializationError",
    "create_pool",
    "cron",
    "func",
]
