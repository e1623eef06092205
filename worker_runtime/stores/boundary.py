"""What every store is: the protocols that the rest of the program keeps jobs through.

The memory store is the job table alone: a runtime without a durable store has `store is None` and
its hot path asks nothing. A durable store is told of every transition before the world is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.states import State
from worker_runtime.model.tasks.definition import TaskDefinition


class Recorded(Protocol):
    """What a store calls once a transition may be shown. `superseded`: it was not recorded, because
    another process has taken the job over; this one forgets it."""

    def __call__(self, *, superseded: bool = False) -> None: ...


class Store(Protocol):
    """Keeps jobs across the life of a process.

    All methods are called on the event loop's thread. The `record_...` methods return at once and
    keep their order: what is recorded later is never durable earlier.

    `last_order`, once open: new jobs must have an `order` above it.
    """

    last_order: int

    async def open(self) -> None:
        """Make the store usable. Raises ConfigurationError naming what is wrong: locked by another
        process, corrupt, read-only, of a newer version."""
        ...

    def recover(self, tasks: Callable[[str], TaskDefinition]) -> AsyncIterator[Sequence[Job]]:
        """The unfinished jobs of earlier lives, oldest first, in bounded batches.

        A job that was running comes as QUEUED with `crashes` one higher, already recorded so.
        `tasks` gives the definition for a name (a parked one where the task is gone).
        """
        ...

    def record_accepted(self, jobs: Sequence[Job]) -> asyncio.Future[None] | None:
        """Keep new jobs, all or none. The future ends when they may be acknowledged and raises
        StoreUnavailable when they were not kept; None: they may be acknowledged now."""
        ...

    async def acknowledged(self, job: Job) -> None:
        """Wait until an accepted job may be acknowledged; for a second caller with the same id.
        Raises StoreUnavailable when it was not kept."""
        ...

    def record_started(self, job: Job) -> asyncio.Future[None] | None:
        """Keep that `job` is running attempt `job.attempt`. The task must not be called before the
        future ends; None: it may be called now. Raises StoreUnavailable only for a job that was
        never accepted because `record_accepted` failed; a kept job waits for space."""
        ...

    def record_transition(self, job: Job, transition: Transition, then: Recorded) -> None:
        """Keep what an attempt or a cancel led to; `then` is called on the loop once it may be
        shown. `job` itself still has its former state."""
        ...

    async def find(self, job_id: str) -> Job | None:
        """An ended job that is no longer in memory."""
        ...

    async def load_note(self, key: str) -> str | None:
        """What `save_note` last kept under `key`; None where it never did."""
        ...

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        """Keep a short text beside the jobs, as durable as they are, `until` then (Unix seconds)
        where that is given."""
        ...

    def statistics(self) -> dict[str, Any]: ...

    async def close(self) -> None:
        """Write what is pending and release the file or connection."""
        ...


@runtime_checkable
class Archive(Protocol):
    """A store that ended jobs can be listed in and deleted from."""

    async def page(
        self,
        *,
        states: Sequence[State],
        queue: str | None,
        task: str | None,
        limit: int,
        below: int | None,
    ) -> list[Job]:
        """Up to `limit` jobs in one of `states`, of `queue` and `task` where given, newest first,
        of those whose `order` is under `below`. As recorded; memory may be ahead."""
        ...

    async def delete(self, job_ids: Sequence[str]) -> int:
        """Forget the ended ones of these jobs, at most 1,000. Returns how many there were."""
        ...
