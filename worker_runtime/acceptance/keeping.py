"""Accept calls as jobs and have the store keep them before anybody is told.

Guarantees: between the admission of a job and its record in the store the event loop does nothing
else, so that no job runs that is not recorded; what the store cannot keep is taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from worker_runtime.acceptance.call import Call
from worker_runtime.acceptance.intake import Intake
from worker_runtime.acceptance.options import WIRE, EnqueueOptions
from worker_runtime.errors import (
    InvalidJob,
    JobConflict,
    Refused,
    StoreUnavailable,
    WorkerRuntimeError,
)
from worker_runtime.model.job import Job
from worker_runtime.model.uniqueness import Uniqueness
from worker_runtime.stores import Store
from worker_runtime.stores.shared import SharedJobs

Accepted = tuple[Job, bool]
"""A job, and whether it is new: False where its id or unique key was known."""


class Acceptance:
    """`store` is None where accepted jobs are kept in memory alone; `shared` is given where other
    processes take jobs from the same queues."""

    def __init__(self, intake: Intake, store: Store | None, shared: SharedJobs | None) -> None:
        self._intake = intake
        self._store = store
        self._shared = shared
        self._unattended: set[asyncio.Task[None]] = set()

    async def accept(self, options: EnqueueOptions, call: Call[Any]) -> Accepted:
        """Raises Refused."""
        if self._shared is not None:
            return await self._accept_shared(self._shared, options, call)
        intake = self._intake
        job = intake.make(call.task, call.args, call.kwargs, options)
        known = await self.known(job, options)
        if known is not None:
            await self.acknowledged(known)
            return known, False
        intake.check_room(job, options)
        intake.admit(job, options.parents)
        await self.keep([job])
        if options.unique is not None:
            await self._note_holder(options.unique, job)
        return job, True

    async def _accept_shared(
        self, shared: SharedJobs, options: EnqueueOptions, call: Call[Any]
    ) -> Accepted:
        if options.unique is not None:
            raise InvalidJob(
                "unique_key does not work with a Redis store; give the job a job_id of its own"
            )
        _refuse_parents(options)
        job = self._intake.make(call.task, call.args, call.kwargs, options)
        self._intake.check_room(job, options)
        [accepted] = await shared.enqueue([job])
        return accepted

    async def accept_many(self, options: EnqueueOptions, calls: Iterable[Call[Any]]) -> list[Job]:
        """All of the calls, or none. Raises Refused."""
        if options.job_id is not None:
            raise InvalidJob("job_id names one job; it cannot be given for many")
        if options.unique is not None:
            raise InvalidJob("unique_key names one job; it cannot be given for many")
        jobs = self._intake.make_many(list(calls), options)
        if self._shared is not None:
            _refuse_parents(options)
            return [job for job, _ in await self._shared.enqueue(jobs)] if jobs else []
        for job in jobs:
            self._intake.admit(job, options.parents)
        await self.keep(jobs)
        return jobs

    async def accept_each(
        self, calls: Iterable[tuple[EnqueueOptions, Call[Any]]]
    ) -> list[Accepted | WorkerRuntimeError]:
        """Each call that can be, on its own; an error stands where one was refused."""
        if self._shared is not None:
            return [await self._accept_or_refusal(options, call) for options, call in calls]
        made: list[tuple[EnqueueOptions, Call[Any], Job | None] | WorkerRuntimeError] = []
        for options, call in calls:
            try:
                if options is WIRE:
                    made.append((options, call, None))
                    continue
                job = self._intake.make(call.task, call.args, call.kwargs, options)
                # A stored job is known without a look at memory, which the admission repeats.
                stored = await self.known(job, options)
                made.append((options, call, job if stored is None else stored))
            except WorkerRuntimeError as error:
                made.append(error)
        answers = [one if isinstance(one, Exception) else self._admit_made(*one) for one in made]
        return await self._kept_each(made, answers)

    async def _accept_or_refusal(
        self, options: EnqueueOptions, call: Call[Any]
    ) -> Accepted | WorkerRuntimeError:
        try:
            return await self.accept(options, call)
        except WorkerRuntimeError as error:
            return error

    def _admit_made(
        self, options: EnqueueOptions, call: Call[Any], job: Job | None
    ) -> Accepted | WorkerRuntimeError:
        intake = self._intake
        try:
            if job is None:
                return intake.accept(call.task, call.args, call.kwargs, options), True
            if job.is_ended:
                return job, False
            known = self._known_here(job, options)
            if known is not None:
                return known, False
            intake.check_room(job, options)
            intake.admit(job, options.parents)
            return job, True
        except WorkerRuntimeError as error:
            return error

    async def _kept_each(
        self,
        made: Sequence[tuple[EnqueueOptions, Call[Any], Job | None] | WorkerRuntimeError],
        answers: list[Accepted | WorkerRuntimeError],
    ) -> list[Accepted | WorkerRuntimeError]:
        if self._store is None:
            return answers
        try:
            new = [one[0] for one in answers if isinstance(one, tuple) and one[1]]
            await self.keep(new)
            for item, one in zip(made, answers, strict=True):
                if isinstance(one, Exception) or isinstance(item, Exception):
                    continue
                if not one[1]:
                    await self.acknowledged(one[0])
                elif item[0].unique is not None:
                    await self._note_holder(item[0].unique, one[0])
        except StoreUnavailable as error:
            return [one if isinstance(one, Exception) else error for one in answers]
        return answers

    async def accept_together(
        self, jobs: Sequence[tuple[Job, Sequence[Job]]], *, is_named: bool
    ) -> None:
        """Jobs of `Intake.make`, each with the parents it waits for: all or none. `is_named`: a
        user chose their ids. Raises Refused."""
        if self._shared is not None:
            raise InvalidJob("chains and groups do not work with a Redis store")
        if is_named and self._store is not None:
            for job, _ in jobs:
                if await self._store.find(job.id) is not None:
                    raise _in_use(job)
        for job, _ in jobs:
            if self._intake.is_known(job.id):
                raise _in_use(job)
        self._intake.check_room_for([job for job, _ in jobs])
        for job, parents in jobs:
            self._intake.admit(job, parents)
        await self.keep([job for job, _ in jobs])

    # The store

    async def keep(self, jobs: Sequence[Job]) -> None:
        """Have the store keep admitted jobs; take them back where it cannot."""
        kept = None if self._store is None or not jobs else self._store.record_accepted(jobs)
        if kept is None:
            return
        try:
            await kept
        except asyncio.CancelledError:  # the caller goes away; the jobs stay, if they can be kept
            task = asyncio.create_task(self._retract_unless_kept(jobs))
            self._unattended.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._unattended.discard)
            raise
        except BaseException:
            self._intake.retract(jobs)
            raise

    async def _retract_unless_kept(self, jobs: Sequence[Job]) -> None:
        try:
            await self.acknowledged(jobs[0])
        except Refused:
            self._intake.retract(jobs)

    async def acknowledged(self, job: Job) -> None:
        """Wait until a known job is as safe as its first caller was told."""
        if self._store is not None:
            await self._store.acknowledged(job)

    # What is known already

    def _known_here(self, job: Job, options: EnqueueOptions) -> Job | None:
        """The job in memory with the same id or unique key. Raises JobConflict."""
        known = None if options.job_id is None else self._intake.existing(job)
        if known is None and options.unique is not None:
            known = self._intake.unique_keys.holder(options.unique, time.time())
        return known

    async def known(self, job: Job, options: EnqueueOptions) -> Job | None:
        """The kept job with the same id or unique key, from memory or the store. Raises
        JobConflict, StoreUnavailable, ShuttingDown where the store is closed already."""
        known = self._known_here(job, options)
        if known is not None or self._store is None:
            return known
        try:
            stored = await self._known_stored(job, options)
        except StoreUnavailable:
            self._intake.check_open()
            raise
        # Another call may have been accepted while the store was asked.
        return self._known_here(job, options) or stored

    async def _known_stored(self, job: Job, options: EnqueueOptions) -> Job | None:
        assert self._store is not None
        stored = None
        if options.job_id is not None:
            stored = await self._store.find(job.id)
            if stored is not None:
                self._intake.check_same(stored, job)
        if stored is None and options.unique is not None and options.unique.outlives_jobs:
            stored = await self._stored_holder(options.unique)
        return stored

    async def _stored_holder(self, wanted: Uniqueness) -> Job | None:
        assert self._store is not None
        job_id = await self._store.load_note(f"unique:{wanted.key}")
        stored = None if job_id is None else await self._store.find(job_id)
        is_held = stored is not None and wanted.is_held_by(stored, time.time())
        return stored if is_held else None

    async def _note_holder(self, unique: Uniqueness, job: Job) -> None:
        if self._store is not None and unique.outlives_jobs:
            until = None if unique.for_s is None else job.created_at + unique.for_s
            await self._store.save_note(f"unique:{unique.key}", job.id, until=until)


def _in_use(job: Job) -> JobConflict:
    return JobConflict(f"job id {job.id!r} is in use")


def _refuse_parents(options: EnqueueOptions) -> None:
    if options.parents:
        raise InvalidJob("after does not work with a Redis store; enqueue from the job before it")
