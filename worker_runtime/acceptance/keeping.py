"""Accept calls as jobs, and have the store keep them before anybody is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from worker_runtime.acceptance.call import Call
from worker_runtime.acceptance.intake import Intake
from worker_runtime.acceptance.options import WIRE, EnqueueOptions
from worker_runtime.errors import InvalidJob, StoreUnavailable, WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.stores.boundary import Accepted, New, Store, WaitsHere, require, waits_here


class Acceptance:
    """Makes jobs of calls, checked as far as they can be by themselves; the store does the rest."""

    def __init__(self, intake: Intake, store: Store) -> None:
        self._intake = intake
        self._store = store
        self._direct = store if waits_here(store) else None

    async def accept(self, options: EnqueueOptions, call: Call[Any]) -> Accepted:
        """Raises Refused."""
        return await self._store.accept(self._new(options, call), self._intake)

    async def accept_many(self, options: EnqueueOptions, calls: Iterable[Call[Any]]) -> list[Job]:
        """All of the calls, or none. Raises Refused."""
        if options.job_id is not None:
            raise InvalidJob("job_id names one job; it cannot be given for many")
        if options.unique is not None:
            raise InvalidJob("unique_key names one job; it cannot be given for many")
        if options.parents:
            require(self._store, "after")
        if options.has_key:
            require(self._store, "key")
        make = self._intake.make
        jobs = [make(call.task, call.args, call.kwargs, options) for call in calls]
        parents = [options.parents] * len(jobs) if options.parents else None
        return await self._store.accept_all(jobs, self._intake, parents=parents) if jobs else []

    async def accept_each(
        self, calls: Iterable[tuple[EnqueueOptions, Call[Any]]]
    ) -> list[Accepted | WorkerRuntimeError]:
        """Each call that can be, on its own; an error stands where one was refused."""
        asked = list(calls)
        if self._direct is not None and all(options is WIRE for options, _ in asked):
            return await self._accept_plain(self._direct, [call for _, call in asked])
        news = [self._new_or_refusal(options, call) for options, call in asked]
        return await self._store.accept_each(news, self._intake)

    async def _accept_plain(
        self, direct: WaitsHere, calls: Sequence[Call[Any]]
    ) -> list[Accepted | WorkerRuntimeError]:
        """The same for calls with no options but WIRE: nothing has to be looked up for them."""
        accept = self._intake.accept
        answers: list[Accepted | WorkerRuntimeError] = []
        jobs: list[Job] = []
        for call in calls:
            try:
                job = accept(call.task, call.args, call.kwargs, WIRE)
            except WorkerRuntimeError as error:
                answers.append(error)
            else:
                jobs.append(job)
                answers.append((job, True))
        try:
            await direct.keep(jobs, self._intake)
        except StoreUnavailable as error:
            return [one if isinstance(one, WorkerRuntimeError) else error for one in answers]
        return answers

    async def accept_together(
        self, jobs: Sequence[tuple[Job, Sequence[Job]]], *, is_named: bool
    ) -> None:
        """Jobs of `Intake.make`, each with the parents it waits for: all or none. `is_named`: a
        user chose their ids. Raises Refused."""
        require(self._store, "workflows")
        await self._store.accept_all(
            [job for job, _ in jobs],
            self._intake,
            parents=[parents for _, parents in jobs],
            is_named=is_named,
        )

    async def keep(self, job: Job) -> None:
        """Have the store keep a job that `Intake.accept` has just made. Raises StoreUnavailable,
        and then the job was taken back."""
        assert self._direct is not None, "what a store hands out is not admitted here"
        await self._direct.keep([job], self._intake)

    def _new(self, options: EnqueueOptions, call: Call[Any]) -> New:
        """Raises Refused."""
        if options.unique is not None:
            require(self._store, "unique_key")
        if options.parents:
            require(self._store, "after")
        if options.has_key:
            require(self._store, "key")
        job = self._intake.make(call.task, call.args, call.kwargs, options)
        return New(job, options.job_id is not None, options.unique, options.parents)

    def _new_or_refusal(self, options: EnqueueOptions, call: Call[Any]) -> New | WorkerRuntimeError:
        try:
            return self._new(options, call)
        except WorkerRuntimeError as error:
            return error
