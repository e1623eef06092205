"""What a runtime measures, as others see it: public, encodable figures of one moment.

A count that names no moment goes back to the start of the process. A figure is None where there is
no such thing: a queue has no commits, the event loop no size.
"""

from __future__ import annotations

import msgspec

from worker_runtime.model.snapshot import QueueInfo


class QueueStatistics(QueueInfo, frozen=True):
    """A queue with what waits in this process, which is less than `waiting` where jobs wait in a
    shared store: `ready` jobs are due and wait for a slot, `scheduled` ones for their time."""

    ready: int
    scheduled: int


class ExecutorStatistics(msgspec.Struct, frozen=True):
    """Where attempts run.

    size       threads or child processes that it may use now; None for the event loop
    busy       those that run an attempt; None for the event loop
    waiting    attempts that wait for one
    abandoned  attempts that were given up and still hold one
    """

    size: int | None
    busy: int | None
    waiting: int
    abandoned: int


class JobStatistics(msgspec.Struct, frozen=True):
    """What this process's jobs came to. `requeued` are attempts whose job waits again: retried,
    interrupted or asked to run again; `interrupted` running jobs that a stop interrupted."""

    accepted: int
    completed: int
    failed: int
    cancelled: int
    requeued: int
    interrupted: int


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is.

    kind               `memory`, `sqlite`, `redis`
    unavailable        why it takes nothing now; None while it does
    results_held_back  ends of jobs and attempts that are not written yet, and shown only then; a
                       few are on their way at any time, and more and more while it is unavailable
    last_commit_s      how long the last commit of jobs took; None before the first, too
    commits, rows      transactions, and rows written in them
    checkpoints        how often the log was copied into the file
    file_bytes, log_bytes   on the disk
    leases_held        jobs that this process has claimed and not given back or ended
    claimed            jobs that it has claimed
    dead_letters       claimed jobs that nobody can read, parked
    """

    kind: str
    unavailable: str | None = None
    results_held_back: int | None = None
    last_commit_s: float | None = None
    commits: int | None = None
    rows: int | None = None
    checkpoints: int | None = None
    file_bytes: int | None = None
    log_bytes: int | None = None
    leases_held: int | None = None
    claimed: int | None = None
    dead_letters: int | None = None


class RuntimeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime in figures.

    accepting           whether new jobs are taken
    executors           by name: `loop`, `thread`, and `process` where a task runs in one
    history_count       ended jobs in memory
    waiters             callers that wait for a job
    abandoned           attempts that were given up and still hold a coroutine, thread or child
    loop_lag_s          how late the event loop ran what was due, at the last measurement
    loop_blocked_count  how often it was blocked for longer than `loop_lag_warn_s`
    """

    accepting: bool
    jobs: JobStatistics
    queues: list[QueueStatistics]
    executors: dict[str, ExecutorStatistics]
    store: StoreStatistics
    history_count: int
    waiters: int
    abandoned: int
    loop_lag_s: float
    loop_blocked_count: int
