"""The words for where a job is on its way, why it went there, and how urgent it is."""

from __future__ import annotations

import enum

# Of ids and of queues' names, which stand in paths: in one, `.` and `..` mean another place.
JOB_ID_PATTERN = r"(?!\.\.?$)[A-Za-z0-9._:-]{1,128}"
JOB_ID_WORDS = "match [A-Za-z0-9._:-]{1,128} and be neither . nor .."


class Priority(enum.IntEnum):
    """Strict: a ready job of a lower number always starts first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @classmethod
    def named(cls, name: str) -> Priority:
        """The priority called `name`: `low`, `normal`, `high` or `critical`. Raises ValueError."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ValueError(no_priority(name)) from None


class State(enum.StrEnum):
    """Where a job is on its way; docs/job_states.md has the transitions."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


# Module-level names: enum member access costs a descriptor call on 3.11, too dear for the hot path.
SCHEDULED = State.SCHEDULED


QUEUED = State.QUEUED


RUNNING = State.RUNNING


COMPLETED = State.COMPLETED


FAILED = State.FAILED


CANCELLED = State.CANCELLED


TERMINAL_STATES = frozenset({COMPLETED, FAILED, CANCELLED})
RETRYABLE_STATES = frozenset({FAILED, CANCELLED})


class Reason(enum.StrEnum):
    """Why a job failed."""

    ERROR = "error"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"
    UNENCODABLE = "unencodable"


class StopReason(enum.StrEnum):
    """Why a running attempt was told to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


PRIORITY_NAMES = tuple(p.name.lower() for p in Priority)


def no_priority(value: object) -> str:
    """What is wrong with a value that is no Priority, for an error."""
    names = ", ".join(reversed(PRIORITY_NAMES))
    return f"priority must be a Priority, not {repr(value)[:100]}: one of {names}"
