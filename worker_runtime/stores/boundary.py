"""The boundary between a runtime and where its jobs are kept: one protocol, and what passes it.

A runtime asks its store and never which one it is. What a store cannot do it says in `lacks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeGuard

import msgspec

from worker_runtime.clock.source import SYSTEM, Clock
from worker_runtime.errors import InvalidJob, WorkerRuntimeError
from worker_runtime.model.figures import StoreStatistics
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.policy import TaskPolicy
from worker_runtime.model.uniqueness import Uniqueness

Feature = Literal[
    "unique_key",
    "key",
    "after",
    "workflows",
    "delete",
    "limits",
    "aging",
    "transaction",
    "only_for",
]

Accepted = tuple[Job, bool]
"""A job, and whether it is new: False where its id or unique key was known."""


class New(msgspec.Struct, gc=False, eq=False):
    """A job that somebody asks for: checked, and not accepted yet. `is_named`: a caller chose its
    id, so that it may be known. It is to wait for `parents`."""

    job: Job
    is_named: bool = False
    unique: Uniqueness | None = None
    parents: Sequence[Job] = ()


def parked(name: str) -> TaskDefinition:
    """The definition of a task that this process does not have."""
    return TaskDefinition(None, TaskPolicy(), name=name)


def _nothing(*_: Any) -> None:
    return None


class Host(msgspec.Struct, frozen=True):
    """The process that opens a store, as the store sees it. The defaults are those of one that only
    looks: it has no task and works on nothing.

    find_task   the definition for a name, a parked one where the task is gone
    task_names  the tasks that it can run
    queues      the queues that it serves
    job_here    the record that it has of a job
    remember    told of a job that it has put into a store which hands jobs out
    on_room     told that it may have room for another job
    on_lost     told that other processes have these jobs now
    clock       what it goes by, and so does its store
    """

    find_task: Callable[[str], TaskDefinition] = parked
    task_names: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    job_here: Callable[[str], Job | None] = _nothing
    remember: Callable[[Job], None] = _nothing
    on_room: Callable[[], None] = _nothing
    on_lost: Callable[[Sequence[str]], None] = _nothing
    clock: Clock = SYSTEM


LOOKS_ONLY = Host()


class Admitter(Protocol):
    """What a store asks of the process that accepts a job; `Intake` says what each means."""

    def is_known(self, job_id: str) -> bool: ...

    def existing(self, job: Job) -> Job | None: ...

    def holder(self, unique: Uniqueness) -> Job | None: ...

    def check_same(self, known: Job, job: Job) -> None: ...

    def check_open(self) -> None: ...

    def check_room(self, job: Job, count: int = 1) -> None: ...

    def check_room_for(self, jobs: Sequence[Job]) -> None: ...

    def admit(self, job: Job, parents: Sequence[Job] = ()) -> None: ...

    def retract(self, jobs: Sequence[Job]) -> None: ...

    def announce(self, job: Job) -> None: ...


class Here(Protocol):
    """The jobs that a process has in memory; `JobTable` says what each means."""

    @property
    def jobs(self) -> Mapping[str, Job]: ...

    def listed(
        self, matches: Callable[[Job], bool], *, limit: int, below: int | None
    ) -> list[Job]: ...


class Recorded(Protocol):
    """What a store calls once a transition may be shown. `superseded`: it was not recorded, because
    another process has taken the job over; this one forgets it. `error`: it cannot be recorded, now
    or later, and says why."""

    def __call__(self, *, superseded: bool = False, error: Exception | None = None) -> None: ...


class Recorder(Protocol):
    """What is told of every attempt before the world is. Both methods return at once and keep their
    order: what is recorded later is never durable earlier."""

    def record_started(self, job: Job) -> asyncio.Future[None] | None:
        """Keep that `job` is running attempt `job.attempt`. The task must not be called before the
        future ends; None: it may be called now. Raises Refused, as its future may, only for a job
        that was never accepted because `keep` failed; a kept job waits for space."""
        ...

    def record_transition(self, job: Job, transition: Transition, then: Recorded) -> None:
        """Keep what an attempt or a cancel led to; `then` is called on the loop once it may be
        shown. `job` itself still has its former state. Where it raises, nothing is recorded, or
        what is recorded next of the job takes its place."""
        ...


class Session(Protocol):
    """SQL and new jobs in one transaction; see `Transaction`."""

    async def execute(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]: ...

    async def executemany(self, sql: str, rows: Iterable[Any]) -> int: ...

    async def add(self, jobs: Sequence[Job], committed: Callable[[], None]) -> None: ...


class Store(Protocol):
    """Keeps jobs. All methods are called on the event loop's thread.

    Of a call it keeps `accepted_arguments(job)`, and a job that it reads has in `accepted` what it
    kept, where the task's annotations make something else of that.

    kind                 a word for people and metrics: `memory`, `sqlite`, `redis`
    lacks                what it cannot do, with a sentence that says so and what to do instead
    outlives_process     accepted jobs are kept when this process ends
    hands_out            jobs wait in the store, for whichever process claims them; else in this one
    must_encode_results  results are kept as bytes
    recorder             None where nothing has to be recorded: a transition is shown at once
    last_order           once open: new jobs must have an `order` above it
    """

    kind: str
    lacks: Mapping[Feature, str]
    outlives_process: bool
    hands_out: bool
    last_order: int

    @property
    def must_encode_results(self) -> bool: ...

    @property
    def recorder(self) -> Recorder | None: ...

    async def open(self, host: Host = LOOKS_ONLY) -> None:
        """Make the store usable. Raises ConfigurationError naming what is wrong: locked by another
        process, corrupt, read-only, of a newer version, not there."""
        ...

    def recover(self) -> AsyncIterator[Sequence[Job]]:
        """The unfinished jobs of earlier lives that this process has to take up, oldest first, in
        bounded batches; none where whoever is free claims them.

        A job that was running comes as QUEUED with `crashes` one higher, already recorded so.
        """
        ...

    async def close(self) -> None:
        """Write what is pending and release the file or connection."""
        ...

    # Accept

    async def accept(self, new: New, admitter: Admitter) -> Accepted:
        """Keep a new job and let it run, or find the kept one with its id or unique key. Raises
        Refused."""
        ...

    async def accept_all(
        self,
        jobs: Sequence[Job],
        admitter: Admitter,
        *,
        parents: Sequence[Sequence[Job]] | None = None,
        is_named: bool = False,
    ) -> list[Job]:
        """All of the jobs, or none; `parents`: those that each of them is to wait for; `is_named`:
        a caller chose their ids. Raises Refused; JobConflict where an id is in use."""
        ...

    async def accept_each(
        self, news: Sequence[New | WorkerRuntimeError], admitter: Admitter
    ) -> list[Accepted | WorkerRuntimeError]:
        """Each job that can be, on its own; an error stands where one was refused, or stood."""
        ...

    async def known(self, new: New, admitter: Admitter) -> Job | None:
        """The kept job with the same id or unique key. Raises JobConflict, StoreUnavailable."""
        ...

    # Look

    async def find(self, job_id: str) -> Job | None:
        """A kept job that this process does not have in memory. Raises StoreUnavailable."""
        ...

    async def page(
        self, wanted: JobFilter, here: Here, *, limit: int, below: int | None
    ) -> tuple[list[Job], int | None]:
        """Up to `limit` jobs that match, newest first, of those whose `order` is under `below`, and
        what continues after them; one that is `here` counts as it is there."""
        ...

    async def ended(self, task: str, *, limit: int, below: int | None) -> list[Job]:
        """As `page`, only the ended jobs of a task that the store has, as copies."""
        ...

    # Act

    async def cancel(self, job: Job, message: str) -> bool:
        """Cancel a job that is not in this process; False where it has ended."""
        ...

    async def bring_back(self, jobs: Sequence[Job], revive: Callable[[], None]) -> list[Job]:
        """Have ended jobs run again, and return their records; `revive` queues all of them in this
        process, where that is where they wait. Raises InvalidTransition, StoreUnavailable."""
        ...

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Forget the ended ones of these jobs, at most 1,000."""
        ...

    def transaction(self, timeout_s: float) -> AbstractAsyncContextManager[Session]:
        """See `Runtime.transaction`."""
        ...

    # Notes and figures

    async def load_note(self, key: str) -> str | None:
        """What `save_note` last kept under `key`; None where it never did."""
        ...

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        """Keep a short text beside the jobs, as long as they are, `until` then (Unix seconds) where
        that is given."""
        ...

    def statistics(self) -> StoreStatistics:
        """How it is now. Cheap: it is read at every scrape of the metrics."""
        ...


class WaitsHere(Store, Protocol):
    """A store that does not hand jobs out: what it accepts waits in this process."""

    async def keep(self, jobs: Sequence[Job], admitter: Admitter) -> None:
        """Keep jobs that were admitted just now, nothing else having happened on the loop; or have
        them taken back and raise StoreUnavailable."""
        ...


def waits_here(store: Store) -> TypeGuard[WaitsHere]:
    """Whether jobs wait in this process; else the store hands them out."""
    return not store.hands_out


def require(store: Store, feature: Feature) -> None:
    """Raises InvalidJob where the store lacks what a caller asks for."""
    sentence = store.lacks.get(feature)
    if sentence is not None:
        raise InvalidJob(sentence)
