"""Which jobs somebody means, and from where on."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from worker_runtime.errors import InvalidJob
from worker_runtime.model.bounded import clean
from worker_runtime.model.job import Job
from worker_runtime.model.states import State

# A place in line is a whole number that fits a row of SQLite, and is never below 0.
PLACE_MAX = (1 << 63) - 1


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are meant: those in one of `states` (empty: in any), of `queue`, of `task`."""

    states: frozenset[State] = frozenset()
    queue: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        for name in ("queue", "task"):  # a store may not be asked for what it cannot hold
            text = getattr(self, name)
            if text is not None and not text.isascii():
                msgspec.structs.force_setattr(self, name, clean(text))

    def matches(self, job: Job) -> bool:
        return (
            (not self.states or job.state in self.states)
            and (self.queue is None or job.queue == self.queue)
            and (self.task is None or job.task.name == self.task)
        )


def states_of(
    given: State | Iterable[State] | None, allowed: frozenset[State] = frozenset(State)
) -> frozenset[State]:
    """The states that a caller named; empty for None. Raises InvalidJob for one not allowed."""
    if given is None:
        return frozenset()
    states = frozenset({given} if isinstance(given, str) else given)
    if not states or not states <= allowed:
        shown = ", ".join(sorted(map(str, states)))[:100] or "none"
        raise InvalidJob(f"state must be one of {', '.join(sorted(allowed))}, not {shown}")
    return states


def place_after(cursor: str | None) -> int | None:
    """The place in line below which a list goes on; None: from the newest on. Raises InvalidJob for
    what no list can have given."""
    if cursor is None:
        return None
    is_number = cursor.isascii() and cursor.isdigit() and len(cursor) <= len(str(PLACE_MAX))
    if not is_number or int(cursor) > PLACE_MAX:
        raise InvalidJob(f"cursor {cursor[:40]!r} is not one that a list gave")
    return int(cursor)
