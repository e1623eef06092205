"""What a caller holds of a job it enqueued."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from worker_runtime.errors import JobCancelled, JobFailed
from worker_runtime.model.job import Job
from worker_runtime.model.snapshot import JobInfo, describe
from worker_runtime.model.states import COMPLETED, FAILED, Reason, State
from worker_runtime.model.values.copying import ATOMS, private_copy

R_co = TypeVar("R_co", covariant=True)


class JobControl(Protocol):
    """What a handle asks of the runtime that has its job; `Runtime` says what each means."""

    def wait(self, job: Job) -> asyncio.Future[None]: ...

    def stop_waiting(self, job: Job, waiter: asyncio.Future[None]) -> None: ...

    async def cancel(self, job_id: str, message: str = "") -> bool: ...

    async def retry_together(self, jobs: Iterable[Job]) -> int: ...


class JobHandle(msgspec.Struct, Generic[R_co], frozen=True, gc=False, eq=False):
    """One job, typed by what its task returns.

    `job` is the live record: read it, only the runtime writes it. `is_new` is False where the id
    was known already.
    """

    job: Job
    runtime: JobControl
    is_new: bool = True

    def __repr__(self) -> str:
        return f"<job {self.job.id} {self.job.task.name} {self.job.state}>"

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def state(self) -> State:
        """As it is now; it changes while the job goes on."""
        return self.job.state

    def info(self) -> JobInfo:
        """A snapshot: state, times, progress, error."""
        return describe(self.job)

    async def result(self, *, timeout_s: float | None = None) -> R_co:
        """The task's return value, waited for at most `timeout_s` seconds; data in it is a copy,
        the caller's own.

        Raises JobFailed or JobCancelled when the job ended so, TimeoutError when it has not ended
        in time (the job goes on).
        """
        job = self.job
        if job.ended_at is None:
            await self.wait(timeout_s=timeout_s)
        if job.state is COMPLETED:
            value: R_co = job.result
            if value is not None and type(value) not in ATOMS:
                value = private_copy(value)
            return value
        failure = job.failure
        if job.state is FAILED and failure is not None:
            raise JobFailed(
                job.id,
                reason=failure.reason or Reason.ERROR,
                error_type=failure.error_type,
                error=failure.error,
                traceback=failure.traceback,
            )
        raise JobCancelled(job.id, failure.error if failure is not None else "")

    async def wait(self, *, timeout_s: float | None = None) -> State:
        """Wait for the job to end, however it does, and return the state it ended in.

        Raises TimeoutError when it has not ended in time.
        """
        if self.job.ended_at is None:
            waiter = self.runtime.wait(self.job)
            try:
                if timeout_s is None:
                    await waiter
                else:
                    async with asyncio.timeout(timeout_s):
                        await waiter
            finally:
                self.runtime.stop_waiting(self.job, waiter)
        return self.job.state

    async def cancel(self, message: str = "") -> bool:
        """Ask for the job to be cancelled; see `Runtime.cancel`."""
        return await self.runtime.cancel(self.job.id, message)


class WorkflowHandle(msgspec.Struct, frozen=True, eq=False):
    """The jobs of one chain, step by step; a step that was given as a list is a group.

    Job ids are the workflow's `id`, a dot and a number, so that `Runtime.workflow(id)` finds them.
    """

    id: str
    runtime: JobControl
    steps: list[list[JobHandle[Any]]]
    ends_in_group: bool = False

    @property
    def jobs(self) -> list[JobHandle[Any]]:
        """All jobs, step by step."""
        return [job for step in self.steps for job in step]

    async def result(self, *, timeout_s: float | None = None) -> Any:
        """The last step's result; a list of them where that step is a group.

        Raises JobFailed or JobCancelled for the first job of the workflow that ended so, and
        TimeoutError.
        """
        async with asyncio.timeout(timeout_s):
            results = [[await job.result() for job in step] for step in self.steps]
        last = results[-1]
        return last if self.ends_in_group else last[0]

    async def cancel(self, message: str = "") -> int:
        """Cancel every job that has not ended. Returns how many there were."""
        jobs = [job for job in self.jobs if job.job.ended_at is None]
        # The waiting ones first, so that none starts meanwhile.
        cancelled = await asyncio.gather(*(job.cancel(message) for job in reversed(jobs)))
        return sum(cancelled)

    async def retry(self) -> int:
        """Run the workflow again from where it stopped: its failed and cancelled jobs, in their
        order; what has completed keeps its result. Returns how many jobs there were. Raises
        InvalidTransition, Unavailable."""
        return await self.runtime.retry_together([job.job for job in self.jobs])
