"""A store that other processes use too, and how a runtime is to work with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker_runtime.errors import WorkerRuntimeError
from worker_runtime.model.job import Job
from worker_runtime.stores.boundary import LOOKS_ONLY, Accepted, Admitter, Host, New

POLL_MAX_S = 0.5

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class SharedSetup(Generic[S]):
    """A shared store and how a runtime is to work with it.

    serves          the queues to take jobs from; None: all
    tries_max       see `ClaimedJobs`, as `crashes_max`, `aborts` and `leaves_unknown`
    poll_max_s      the longest time between two looks into a queue
    jobs_max        how many jobs are taken at most; None: any number
    any_name        task names are the fleet's, and may be any text
    keeps_late_ends see `Attempts`
    health_every_s  how often the health key is written; 0: never. `health_key`: its name, by queue
    """

    store: S
    serves: Collection[str] | None = None
    tries_max: Callable[[str], int] | None = None
    aborts: bool = True
    leaves_unknown: bool = True
    poll_max_s: float = POLL_MAX_S
    jobs_max: int | None = None
    any_name: bool = False
    keeps_late_ends: bool = False
    health_every_s: float = 30.0
    health_key: str | None = None


class SharedStore(ABC):
    """Accepts jobs that wait in the store, for whichever process claims them, and keeps them as its
    subclass does. `_host` is the process that opened it."""

    hands_out = True
    outlives_process = True
    last_order = 0  # an order is made of the enqueue's time, which all processes share

    def __init__(self) -> None:
        self._host: Host = LOOKS_ONLY

    # What a subclass says

    @abstractmethod
    async def enqueue(self, jobs: Sequence[Job]) -> list[bool]:
        """Put jobs into their queues, all or none. For each: False where its id is in use already.
        Raises StoreUnavailable, QueueFull, InvalidJob, PayloadTooLarge."""

    @abstractmethod
    async def find(self, job_id: str) -> Job | None:
        """The job as the store has it, waiting, running or ended. Raises StoreUnavailable."""

    # Accept

    async def recover(self) -> AsyncIterator[Sequence[Job]]:
        """None: unfinished jobs are claimed, by whoever is free first."""
        return
        yield ()

    async def accept(self, new: New, admitter: Admitter) -> Accepted:
        admitter.check_room(new.job)
        [accepted] = await self._accept([new.job], admitter)
        return accepted

    async def accept_all(
        self,
        jobs: Sequence[Job],
        admitter: Admitter,
        *,
        parents: Sequence[Sequence[Job]] | None = None,
        is_named: bool = False,
    ) -> list[Job]:
        admitter.check_room_for(jobs)
        return [job for job, _ in await self._accept(jobs, admitter)]

    async def accept_each(
        self, news: Sequence[New | WorkerRuntimeError], admitter: Admitter
    ) -> list[Accepted | WorkerRuntimeError]:
        answers: list[Accepted | WorkerRuntimeError] = []
        for new in news:
            try:
                answers.append(await self.accept(new, admitter) if isinstance(new, New) else new)
            except WorkerRuntimeError as error:
                answers.append(error)
        return answers

    async def _accept(self, jobs: Sequence[Job], admitter: Admitter) -> list[Accepted]:
        """Enqueue jobs. For each: its record, and whether it is new. Raises Refused; JobConflict
        where the id belongs to a job with another payload."""
        records: list[Accepted] = []
        for job, is_new in zip(jobs, await self.enqueue(jobs), strict=True):
            if is_new:
                admitter.announce(job)
                self._host.remember(job)
                records.append((job, True))
            else:
                records.append((await self._kept(job, admitter), False))
        return records

    async def _kept(self, job: Job, admitter: Admitter) -> Job:
        known = self._host.job_here(job.id) or await self.find(job.id)
        if known is None:  # it ended and was forgotten in this very moment
            [is_new] = await self.enqueue([job])
            return job if is_new else await self._kept(job, admitter)
        admitter.check_same(known, job)
        return known

    async def known(self, new: New, admitter: Admitter) -> Job | None:
        known = await self.find(new.job.id) if new.is_named else None
        if known is not None:
            admitter.check_same(known, new.job)
        return known
