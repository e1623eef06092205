"""What doors and handles may ask of a runtime, and an application has no use for.

A door never reaches for a part: what it needs and does not find here is added here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from worker_runtime.acceptance.call import Call, TaskRef
from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.assembly import Parts
from worker_runtime.errors import WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.model.states import StopReason
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.services.resources import Resources
from worker_runtime.stores.boundary import waits_here


class StopOrder(msgspec.Struct, frozen=True):
    """That a running job was told to stop."""

    reason: StopReason
    message: str


class Doorway:
    """The inner surface of one runtime. `clock` is the one that all of it goes by."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.clock = parts.clock
        self._intake = parts.intake
        self._acceptance = parts.acceptance
        self._is_direct = waits_here(parts.store)
        self._keeps = parts.store.recorder is not None

    # Accept

    async def enqueue_with(
        self,
        options: EnqueueOptions,
        task: TaskRef,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> JobHandle[Any]:
        """`enqueue` for callers that hold the options and arguments as values. Raises Refused."""
        is_looked_up = options.job_id is not None and self._keeps
        if self._is_direct and not is_looked_up and self._intake.is_simple(options):
            job = self._intake.accept(task, args, kwargs, options)
            if self._keeps:
                await self._acceptance.keep(job)
            return JobHandle(job, self)
        call: Call[Any] = Call(task, args, kwargs or {})  # `Call[Any](...)` costs twice as much
        job, is_new = await self._acceptance.accept(options, call)
        return JobHandle(job, self, is_new)

    async def enqueue_many_with(
        self, options: EnqueueOptions, calls: Iterable[Call[Any]]
    ) -> list[JobHandle[Any]]:
        """`enqueue_many` for callers that hold the options as a value. Raises Refused."""
        jobs = await self._acceptance.accept_many(options, calls)
        return [JobHandle(job, self) for job in jobs]

    async def enqueue_each(
        self, calls: Iterable[tuple[EnqueueOptions, Call[Any]]]
    ) -> list[JobHandle[Any] | WorkerRuntimeError]:
        """Accept each call that can be, on its own. Where one was refused its error stands."""
        answers = await self._acceptance.accept_each(calls)
        return [
            answer
            if isinstance(answer, WorkerRuntimeError)
            else JobHandle(answer[0], self, answer[1])
            for answer in answers
        ]

    def new_job_id(self) -> str:
        """An id that no other job has, sorted by the time it is made at."""
        return self._intake.new_id()

    def make_job(self, call: Call[Any], options: EnqueueOptions) -> Job:
        """A checked job that is not accepted yet; for `accept_together`. Raises Refused."""
        return self._intake.make(call.task, call.args, call.kwargs, options)

    async def accept_together(
        self, jobs: Sequence[tuple[Job, Sequence[Job]]], *, is_named: bool
    ) -> list[JobHandle[Any]]:
        """Accept jobs, each with the parents it waits for, all of them or none; `is_named` says
        that a user chose their ids. Raises Refused."""
        await self._acceptance.accept_together(jobs, is_named=is_named)
        return [JobHandle(job, self) for job, _ in jobs]

    # Wait and act

    def wait(self, job: Job) -> asyncio.Future[None]:
        """A future that ends with the job. Who stops waiting before that gives it back with
        `stop_waiting`. Raises Unavailable where too many wait already."""
        waiter = self._parts.table.wait(job)
        if not self._is_direct:  # else the record that is waited for is the one that it runs on
            self._parts.feed.watch(job)
        return waiter

    def stop_waiting(self, job: Job, waiter: asyncio.Future[None]) -> None:
        """Give back a future of `wait`. Harmless for one that has ended."""
        self._parts.table.stop_waiting(job, waiter)

    async def find(self, job_id: str) -> JobHandle[Any]:
        """See `Runtime.find`."""
        return JobHandle(await self.job(job_id), self, is_new=False)

    async def job(self, job_id: str) -> Job:
        """See `Runtime.job`."""
        return await self._parts.inspection.job(job_id)

    async def cancel(self, job_id: str, message: str = "") -> bool:
        """See `Runtime.cancel`."""
        return await self._parts.cancellation.cancel(await self.job(job_id), message)

    async def retry_together(self, jobs: Iterable[Job]) -> int:
        """Run the failed and cancelled ones of `jobs`, parents before their children, again: all or
        none. Returns how many there were. Raises InvalidTransition, Unavailable."""
        return await self._parts.ended_jobs.retry_together(jobs)

    async def wait_none_running(self) -> None:
        """Wait until no attempt runs here."""
        await self._parts.draining.wait_none_running()

    # Look

    @property
    def keeps_jobs(self) -> bool:
        """Whether accepted jobs outlive this process."""
        return self._parts.store.outlives_process

    @property
    def resources(self) -> Resources:
        """What this process and its container use."""
        return self._parts.resources

    def definition(self, task: Callable[..., Any] | str) -> TaskDefinition:
        """The task that is registered. Raises UnknownTask."""
        return self._parts.registry.find(task)

    def job_here(self, job_id: str) -> Job | None:
        """The record of a job that this process has in memory."""
        return self._parts.table.jobs.get(job_id)

    def jobs_here(self, *, newest_first: bool = False) -> Iterator[Job]:
        """The records of all jobs that this process has in memory."""
        jobs = self._parts.table.jobs.values()
        return reversed(jobs) if newest_first else iter(jobs)

    def running_jobs(self, queue: str) -> Iterator[Job]:
        """The records of the jobs that run here now, of one queue."""
        return (slot.job for slot in self._parts.lanes[queue].running)

    async def ended_jobs(self, task: str, *, limit: int, below: int | None) -> list[Job]:
        """Up to `limit` ended jobs of a task that only the store may have, newest first, of those
        whose `order` is under `below`; copies, which may be changed. Raises StoreUnavailable."""
        return await self._parts.store.ended(task, limit=limit, below=below)

    def stop_order(self, job: Job) -> StopOrder | None:
        """How a running job was told to stop; None where it was not, or has ended."""
        slot = self._parts.dispatcher.slot_of(job)
        if slot is None or slot.stopped_by is None:
            return None
        return StopOrder(slot.stopped_by, slot.stop_message)

    def running_count(self) -> int:
        """Attempts that run here."""
        return sum(len(lane.running) for lane in self._parts.lanes.values())

    def waiting_count(self, queue: str | None = None) -> int:
        """Jobs that wait here, those of `queue` where it is given."""
        lanes = self._parts.lanes
        if queue is not None:
            return lanes[queue].queue.waiting
        return sum(lane.queue.waiting for lane in lanes.values())

    def executors(self) -> dict[str, dict[str, Any]]:
        """All that each executor says of itself, by name."""
        return {name: each.statistics() for name, each in self._parts.executors.items()}
