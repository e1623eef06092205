"""An embeddable asyncio job runtime.

from worker_runtime import Runtime, task

@task(timeout_s=30)
async def greet(name: str) -> str:
    return f"hello {name}"

async with Runtime([greet]) as runtime:
    job = await runtime.enqueue(greet, "world")
    print(await job.result(timeout_s=5))
"""

from worker_runtime.acceptance.call import Call, call, step
from worker_runtime.acceptance.handle import JobHandle, WorkflowHandle
from worker_runtime.acceptance.transaction import Transaction
from worker_runtime.control.ended_jobs import BulkResult
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
from worker_runtime.model.figures import (
    ExecutorStatistics,
    JobStatistics,
    QueueStatistics,
    RuntimeStatistics,
    StoreStatistics,
)
from worker_runtime.model.snapshot import (
    AttemptInfo,
    JobDetail,
    JobInfo,
    JobPage,
    ProgressInfo,
    QueueInfo,
)
from worker_runtime.model.states import Priority, Reason, State
from worker_runtime.model.tasks.definition import task
from worker_runtime.model.tasks.policy import Limit, Retry
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
    "ExecutorStatistics",
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
    "JobStatistics",
    "Limit",
    "Missed",
    "Overloaded",
    "PayloadTooLarge",
    "Priority",
    "ProgressInfo",
    "QueueFull",
    "QueueInfo",
    "QueueSettings",
    "QueueStatistics",
    "Reason",
    "Refused",
    "Retry",
    "RunAgain",
    "Runtime",
    "RuntimeStatistics",
    "Settings",
    "ShuttingDown",
    "State",
    "StoreStatistics",
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
