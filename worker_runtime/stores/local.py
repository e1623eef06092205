"""What stores have in common whose jobs wait in the process that has them.

Guarantees: between admitting a job and its record in the store the event loop does nothing
else, so that no job runs that is not recorded; what the store cannot keep is taken back.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from worker_runtime.errors import JobConflict, StoreUnavailable, WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.model.uniqueness import Uniqueness
from worker_runtime.stores.boundary import LOOKS_ONLY, Accepted, Admitter, New


class LocalStore(ABC):
    """Accepts jobs into this process, and keeps them as its subclass does."""

    hands_out = False
    outlives_process: bool

    def __init__(self) -> None:
        self._unattended: set[asyncio.Task[None]] = set()
        self._clock = LOOKS_ONLY.clock  # the host's, once it is open

    # What a subclass says

    @abstractmethod
    def record_accepted(self, jobs: Sequence[Job]) -> asyncio.Future[None] | None:
        """Keep new jobs, all or none. The future ends when they may be acknowledged and raises
        StoreUnavailable when they were not kept; None: they may be acknowledged now. Raises
        InvalidArguments, PayloadTooLarge for what the store cannot hold."""

    @abstractmethod
    async def acknowledged(self, job: Job) -> None:
        """Wait until an accepted job may be acknowledged; for a second caller with the same id.
        Raises StoreUnavailable when it was not kept."""

    @abstractmethod
    async def find(self, job_id: str) -> Job | None:
        """An ended job that is no longer in memory. Raises StoreUnavailable."""

    @abstractmethod
    async def load_note(self, key: str) -> str | None: ...

    @abstractmethod
    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None: ...

    # Accept

    async def accept(self, new: New, admitter: Admitter) -> Accepted:
        known = await self.known(new, admitter)
        if known is not None:
            await self.acknowledged(known)
            return known, False
        admitter.check_room(new.job)
        admitter.admit(new.job, new.parents)
        await self.keep([new.job], admitter)
        if new.unique is not None:
            await self._note_holder(new.unique, new.job)
        return new.job, True

    async def accept_all(
        self,
        jobs: Sequence[Job],
        admitter: Admitter,
        *,
        parents: Sequence[Sequence[Job]] | None = None,
        is_named: bool = False,
    ) -> list[Job]:
        if is_named:
            stored = [await self.find(job.id) for job in jobs]
            for job, known in zip(jobs, stored, strict=True):
                if known is not None or admitter.is_known(job.id):
                    raise JobConflict(f"job id {job.id!r} is in use")
        admitter.check_room_for(jobs)
        if parents is None:
            for job in jobs:
                admitter.admit(job)
        else:
            for job, before in zip(jobs, parents, strict=True):
                admitter.admit(job, before)
        await self.keep(jobs, admitter)
        return list(jobs)

    async def accept_each(
        self, news: Sequence[New | WorkerRuntimeError], admitter: Admitter
    ) -> list[Accepted | WorkerRuntimeError]:
        found = [
            await self._stored_or_same(new, admitter) if isinstance(new, New) else new
            for new in news
        ]
        answers = [_admitted(one, admitter) for one in found]
        return await self._kept_each(news, answers, admitter)

    async def _stored_or_same(self, new: New, admitter: Admitter) -> New | Job | WorkerRuntimeError:
        """What is kept already in place of a new job, else that one again."""
        try:
            # A stored job is known without a look at memory, which admitting it repeats.
            return await self.known(new, admitter) or new
        except WorkerRuntimeError as error:
            return error

    async def _kept_each(
        self,
        news: Sequence[New | WorkerRuntimeError],
        answers: list[Accepted | WorkerRuntimeError],
        admitter: Admitter,
    ) -> list[Accepted | WorkerRuntimeError]:
        try:
            fresh = [one[0] for one in answers if isinstance(one, tuple) and one[1]]
            await self.keep(fresh, admitter)
            for new, one in zip(news, answers, strict=True):
                if isinstance(one, Exception) or not isinstance(new, New):
                    continue
                if not one[1]:
                    await self.acknowledged(one[0])
                elif new.unique is not None:
                    await self._note_holder(new.unique, one[0])
        except StoreUnavailable as error:
            return [one if isinstance(one, Exception) else error for one in answers]
        return answers

    async def keep(self, jobs: Sequence[Job], admitter: Admitter) -> None:
        if not jobs:
            return
        try:
            kept = self.record_accepted(jobs)
            if kept is not None:
                await kept
        except asyncio.CancelledError:  # the caller goes away; the jobs stay, if they can be kept
            task = asyncio.create_task(self._retract_unless_kept(jobs, admitter))
            self._unattended.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._unattended.discard)
            raise
        except BaseException:
            admitter.retract(jobs)
            raise

    async def _retract_unless_kept(self, jobs: Sequence[Job], admitter: Admitter) -> None:
        try:
            await self.acknowledged(jobs[0])
        except StoreUnavailable:
            admitter.retract(jobs)

    # What is known already

    async def known(self, new: New, admitter: Admitter) -> Job | None:
        """The kept job with the same id or unique key, from memory or the store. Raises
        JobConflict, StoreUnavailable, ShuttingDown where the store is closed already."""
        known = _known_here(new, admitter)
        if known is not None:
            return known
        try:
            stored = await self._known_stored(new, admitter)
        except StoreUnavailable:
            admitter.check_open()
            raise
        # Another call may have been accepted while the store was asked.
        return _known_here(new, admitter) or stored

    async def _known_stored(self, new: New, admitter: Admitter) -> Job | None:
        stored = None
        if new.is_named:
            stored = await self.find(new.job.id)
            if stored is not None:
                admitter.check_same(stored, new.job)
        if stored is None and new.unique is not None and new.unique.outlives_jobs:
            stored = await self._stored_holder(new.unique)
        return stored

    async def _stored_holder(self, wanted: Uniqueness) -> Job | None:
        job_id = await self.load_note(f"unique:{wanted.key}")
        stored = None if job_id is None else await self.find(job_id)
        is_held = stored is not None and wanted.is_held_by(stored, self._clock.wall())
        return stored if is_held else None

    async def _note_holder(self, unique: Uniqueness, job: Job) -> None:
        if unique.outlives_jobs and self.outlives_process:
            until = None if unique.for_s is None else job.created_at + unique.for_s
            await self.save_note(f"unique:{unique.key}", job.id, until=until)

    # Act

    async def cancel(self, job: Job, message: str) -> bool:
        """False: what this process does not have in memory has ended."""
        return False

    async def bring_back(self, jobs: Sequence[Job], revive: Callable[[], None]) -> list[Job]:
        revive()
        return list(jobs)


def _known_here(new: New, admitter: Admitter) -> Job | None:
    """The job in memory with the same id or unique key. Raises JobConflict."""
    known = admitter.existing(new.job) if new.is_named else None
    if known is None and new.unique is not None:
        known = admitter.holder(new.unique)
    return known


def _admitted(
    one: New | Job | WorkerRuntimeError, admitter: Admitter
) -> Accepted | WorkerRuntimeError:
    try:
        if isinstance(one, New):
            known = _known_here(one, admitter)
            if known is not None:
                return known, False
            admitter.check_room(one.job)
            admitter.admit(one.job, one.parents)
            return one.job, True
        return (one, False) if isinstance(one, Job) else one
    except WorkerRuntimeError as error:
        return error
