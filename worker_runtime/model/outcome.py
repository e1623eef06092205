"""The values that pass between the stages of a job: what an attempt ended in, what follows."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgspec

from worker_runtime.model.activity import ATTEMPTS_KEPT_MAX, AttemptRecord, Failure
from worker_runtime.model.job import Job
from worker_runtime.model.states import QUEUED, State, StopReason


class OutcomeKind(enum.Enum):
    RETURNED = "returned"
    RAISED = "raised"
    RUN_AGAIN = "run_again"
    STOPPED = "stopped"
    REFUSED = "refused"


class Outcome(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The value an attempt ends in. Only the finisher interprets it.

    value       what the task returned, when `kind` is RETURNED
    failure     what went wrong, when RAISED or STOPPED
    retryable   RAISED: the job's `Retry` admits this exception (a crash: it may be run again)
    again_s     RUN_AGAIN: seconds until the next run; `uses_attempt` whether it counts as a try
    stopped_by  STOPPED: who ended it

    REFUSED means that the job was never accepted, so that there is nothing to record.
    """

    kind: OutcomeKind
    value: Any = None
    failure: Failure | None = None
    retryable: bool = False
    again_s: float = 0.0
    uses_attempt: bool = False
    stopped_by: StopReason | None = None


class Transition(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What the finisher decided: the job's next state and everything recorded with it.

    `encoded` is `value` as MessagePack, where it had to be encoded. `due_at` only for SCHEDULED and
    QUEUED. `attempt` and `crashes` are the job's counters from now
    on: an interrupted or postponed attempt gives its number back.
    """

    state: State
    at: float
    value: Any = None
    failure: Failure | None = None
    due_at: float = 0.0
    attempt: int = 0
    crashes: int = 0
    encoded: bytes | None = None


def revival(job: Job, at: float) -> Transition:
    """An ended job runs again because somebody asked for it: at once, with a fresh budget of tries
    and crashes."""
    return Transition(QUEUED, at, failure=job.failure)


def with_ended_attempt(
    attempts: Sequence[AttemptRecord], job: Job, transition: Transition
) -> list[AttemptRecord]:
    """`attempts` and the one of `job` that led to `transition`; the newest ones, within a bound."""
    record = AttemptRecord(
        number=job.attempt,
        started_at=job.started_at or transition.at,
        ended_at=transition.at,
        failure=transition.failure,
    )
    return [*attempts, record][-ATTEMPTS_KEPT_MAX:]
