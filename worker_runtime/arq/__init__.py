"""arq's names for those who uninstall it, and a worker that behaves as arq's does."""

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
