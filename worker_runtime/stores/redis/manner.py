"""What differs between fleets on Redis: where queues lie, what is kept how long, and hooks."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from worker_runtime.model.job import Job, ttl_of
from worker_runtime.model.outcome import Transition
from worker_runtime.stores.redis.leases import Lease
from worker_runtime.stores.redis.wire.layout import DEFAULT_QUEUE_KEY


class Claimed(msgspec.Struct, gc=False):
    """A job that this process holds from now on, as Redis had it.

    payload   None where the job's key has expired
    abort_ms  when somebody asked for its abort, if so
    crashes   how often a worker died with it
    """

    lease: Lease
    payload: bytes | None
    priority: int
    abort_ms: int | None
    crashes: int


class Claims(msgspec.Struct, gc=False):
    """What one claim found. `waiting` counts the queue with those in progress; `next_due` is the
    Unix time at which the next scheduled job becomes due, None where there is none. `is_late`: it
    took nothing, because others should speak first; see `claims`."""

    jobs: list[Claimed]
    waiting: int
    next_due: float | None
    is_late: bool = False


class Manner:
    """What differs between our own fleets and arq's. This is our own; `arq.worker` has arq's."""

    has_after_end = False

    def __init__(self, *, result_ttl_s: float) -> None:
        self._result_ttl_s = result_ttl_s

    def result_ttl_ms(self, job: Job) -> int | None:
        """How long the result is kept; 0 for ever, None not at all."""
        ttl_s = ttl_of(job)
        return round((self._result_ttl_s if ttl_s is None else ttl_s) * 1000) or None

    def hold_ms(self, job: Job) -> int:
        """How long an ended job still counts as in progress."""
        return 0

    def ended_early(self, job: Job, text: str) -> None:
        """Called when a job ends without a run."""

    def before_end(self, job: Job, transition: Transition) -> Awaitable[None] | None:
        """Called when an attempt has ended, before that is written."""
        return None

    def after_end(self, job: Job, transition: Transition) -> Awaitable[None] | None:
        """Called when the end of an attempt is written."""
        return None


def queue_key(name: str) -> str:
    """The key of the queue called `name`: `arq:queue` for the default queue, `arq:queue:NAME` for
    others; a name that starts with `arq:queue` is the key itself."""
    if name == "default":
        return DEFAULT_QUEUE_KEY
    return name if name.startswith(DEFAULT_QUEUE_KEY) else f"{DEFAULT_QUEUE_KEY}:{name}"
