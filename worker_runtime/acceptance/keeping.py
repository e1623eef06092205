"""Accept calls as jobs, and have the store keep them before anybody is told."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from worker_runtime.acceptance.call import Call
from worker_runtime.acceptance.intake import Intake
from worker_runtime.acceptance.options import WIRE, EnqueueOptions
from worker_runtime.errors import InvalidJob, WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.stores.boundary import Accepted, AdmitNow, New, Store, require, waits_here


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
        news = [self._new(options, call) for call in calls]
        return await self._store.accept_all(news, self._intake) if news else []

    async def accept_each(
        self, calls: Iterable[tuple[EnqueueOptions, Call[Any]]]
    ) -> list[Accepted | WorkerRuntimeError]:
        """Each call that can be, on its own; an error stands where one was refused."""
        is_direct = self._direct is not None
        news = [
            self._plainly(options, call)
            if options is WIRE and is_direct
            else self._new_or_refusal(options, call)
            for options, call in calls
        ]
        return await self._store.accept_each(news, self._intake)

    async def accept_together(
        self, jobs: Sequence[tuple[Job, Sequence[Job]]], *, is_named: bool
    ) -> None:
        """Jobs of `Intake.make`, each with the parents it waits for: all or none. `is_named`: a
        user chose their ids. Raises Refused."""
        require(self._store, "workflows")
        news = [New(job, is_named=is_named, parents=parents) for job, parents in jobs]
        await self._store.accept_all(news, self._intake)

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
        job = self._intake.make(call.task, call.args, call.kwargs, options)
        return New(job, options.job_id is not None, options.unique, options.parents)

    def _new_or_refusal(self, options: EnqueueOptions, call: Call[Any]) -> New | WorkerRuntimeError:
        try:
            return self._new(options, call)
        except WorkerRuntimeError as error:
            return error

    def _plainly(self, options: EnqueueOptions, call: Call[Any]) -> AdmitNow:
        return functools.partial(self._intake.accept, call.task, call.args, call.kwargs, options)
