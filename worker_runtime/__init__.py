"""An embeddable asyncio job runtime.

from worker_runtime import Runtime, task

@task(timeout_s=30)
async def greet(name: str) -> str:
    return f"hello {name}"

async with Runtime([greet]) as runtime:
    job = await runtime.enqueue(greet, "world")
    print(await job.result(timeout_s=5))
"""

from worker_runtime.acceptance.handle import JobHandle, WorkflowHandle
from worker_runtime.acceptance.options import Call, call, step
from worker_runtime.acceptance.transaction import Transaction
from worker_runtime.control.ended_jobs import BulkResult
from worker_runtime.control.inspection import JobDetail, JobPage
from worker_runtime.control.queues import QueueInfo
from worker_runtime.engine.events import Event, Missed, Subscription
from worker_runtime.errors import (
    ConfigurationError,
    InvalidArguments,
    InvalidJob,
    InvalidTransition,
    JobCancelled,
    JobConflict,
    JobFailed,
    JobInterrupted,
    JobNotCompleted,
    Overloaded,
    PayloadTooLarge,
    QueueFull,
    Refused,
    RunAgain,
    ShuttingDown,
    StoreUnavailable,
    TransactionExpired,
    Unavailable,
    UnknownJob,
    UnknownQueue,
    UnknownTask,
    WorkerRuntimeError,
)
from worker_runtime.model.context import JobContext
from worker_runtime.model.job import JobInfo, Priority, ProgressInfo, Reason, State
from worker_runtime.model.snapshot import AttemptInfo
from worker_runtime.model.tasks.definition import Limit, Retry, task
from worker_runtime.runtime import Runtime
from worker_runtime.services.cron import CronInfo, cron
from worker_runtime.settings import QueueSettings, Settings

__version__ = "0.1.0"

__all__ = [
    "AttemptInfo",
    "BulkResult",
    "Call",
    "ConfigurationError",
    "CronInfo",
    "Event",
    "InvalidArguments",
    "InvalidJob",
    "InvalidTransition",
    "JobCancelled",
    "JobConflict",
    "JobContext",
    "JobDetail",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "JobInterrupted",
    "JobNotCompleted",
    "JobPage",
    "Limit",
    "Missed",
    "Overloaded",
    "PayloadTooLarge",
    "Priority",
    "ProgressInfo",
    "QueueFull",
    "QueueInfo",
    "QueueSettings",
    "Reason",
    "Refused",
    "Retry",
    "RunAgain",
    "Runtime",
    "Settings",
    "ShuttingDown",
    "State",
    "StoreUnavailable",
    "Subscription",
    "Transaction",
    "TransactionExpired",
    "Unavailable",
    "UnknownJob",
    "UnknownQueue",
    "UnknownTask",
    "WorkerRuntimeError",
    "WorkflowHandle",
    "__version__",
    "call",
    "cron",
    "step",
    "task",
]
