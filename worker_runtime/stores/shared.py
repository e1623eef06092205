"""A store that other processes use too: how a runtime works with it, and what it offers above."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from worker_runtime.model.job import Job

POLL_MAX_S = 0.5

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class SharedSetup(Generic[S]):
    """A shared store and how a runtime is to work with it.

    serves          the queues to take jobs from; None: all
    tries_max       see `Admission`, as `crashes_max`, `aborts` and `leaves_unknown`
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


class SharedJobs(Protocol):
    """The jobs of a shared store, as this process asks about them."""

    async def start(self) -> None:
        """Begin to take jobs. The store is open."""
        ...

    async def stop(self) -> None:
        """Take nothing more; give back what did not start."""
        ...

    async def enqueue(self, jobs: Sequence[Job]) -> list[tuple[Job, bool]]:
        """Put jobs into the store. For each: its record, and whether it is new. Raises Refused;
        JobConflict where the id belongs to a job with another payload."""
        ...

    def is_here(self, job: Job) -> bool:
        """Whether this process holds the job."""
        ...

    def watch(self, job: Job) -> None:
        """Somebody waits for this job, wherever it runs."""
        ...

    async def cancel(self, job: Job, message: str) -> bool: ...

    async def retry(self, job: Job) -> Job:
        """Raises InvalidTransition where it waits or runs again already."""
        ...

    async def page(
        self, matches: Callable[[Job], bool], *, limit: int, below: int | None
    ) -> tuple[list[Job], str | None]:
        """Jobs that match, newest first, and the cursor for those after them."""
        ...

    def waiting(self, queue: str) -> int:
        """Jobs in the queue when it was last looked into, those that run here left out."""
        ...

    def look_again(self) -> None:
        """There may be something to do in every queue."""
        ...

    async def wait_drained(self) -> None:
        """Wait until nothing runs here and the queues hold only what other workers have to do."""
        ...
