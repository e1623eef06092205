"""The options of a job, checked and made ready for the one who makes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.clock.source import Clock
from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority
from worker_runtime.model.tasks.options import NAMED, NO_OPTIONS, JobOptions, checked
from worker_runtime.model.uniqueness import Uniqueness

# Options that a job keeps as they were given, under their own names.
_KEPT = frozenset(name for name, option in NAMED.items() if option.field == name)


class EnqueueOptions(msgspec.Struct, frozen=True):
    """Where and when one job runs. None means: as its task says. `due_at` is Unix seconds.

    `parents` are the jobs that `overrides.after` names. `must_encode`: the result will be read as
    JSON or MessagePack. `wire`: the arguments were.
    """

    job_id: str | None = None
    queue: str | None = None
    priority: Priority | None = None
    due_at: float | None = None
    overrides: JobOptions | None = None
    unique: Uniqueness | None = None
    parents: tuple[Job, ...] = ()
    must_encode: bool = False
    wire: bool = False

    @property
    def has_key(self) -> bool:
        """Whether the job is one of a party that takes turns with others."""
        return self.overrides is not None and self.overrides.key is not None


# A job as its task's policy says, called over a wire: what most jobs of an HTTP door are.
WIRE = EnqueueOptions(must_encode=True, wire=True)


class GivenOptions(msgspec.Struct, frozen=True):
    """Checked options, of which `delay_s` and `expires_s` count from each enqueue."""

    clock: Clock
    fixed: EnqueueOptions
    delay_s: float | None
    expires_s: float | None

    @property
    def are_relative(self) -> bool:
        return self.delay_s is not None or self.expires_s is not None

    def now(self) -> EnqueueOptions:
        """The options of a job that is enqueued now."""
        if not self.are_relative:
            return self.fixed
        now = self.clock.wall()
        due_at, overrides = self.fixed.due_at, self.fixed.overrides
        if self.delay_s:
            due_at = now + self.delay_s
        if self.expires_s is not None:
            expires_at = now + self.expires_s
            overrides = msgspec.structs.replace(overrides or NO_OPTIONS, expires_at=expires_at)
        return msgspec.structs.replace(self.fixed, due_at=due_at, overrides=overrides)


def given_options(
    clock: Clock,
    given: Mapping[str, Any],
    parents: Sequence[JobHandle[Any]] = (),
    *,
    wire: bool = False,
) -> GivenOptions:
    """The options `given` by their names in `worker_runtime.model.tasks.options`, checked.

    `parents` are the jobs that `after` names by their ids. `wire=True` for a job whose arguments
    came, and whose result goes, over one. Raises InvalidJob.
    """
    options = checked(clock, given)
    fixed = _fixed(clock, options, parents, wire)
    return GivenOptions(clock, fixed, options.get("delay_s"), options.get("expires_s"))


def handles_in(after: Iterable[JobHandle[Any]]) -> tuple[JobHandle[Any], ...]:
    """The handles as a tuple. Raises InvalidJob where another thing stands in their place."""
    handles = tuple(after) if isinstance(after, Iterable) else (after,)
    for one in handles:
        if not isinstance(one, JobHandle):
            raise NAMED["after"].kind.refusal("after", f"{one!r:.200}")
    return handles


def _fixed(
    clock: Clock, options: Mapping[str, Any], parents: Sequence[JobHandle[Any]], wire: bool
) -> EnqueueOptions:
    """What of checked options does not count from an enqueue."""
    kept = {name: value for name, value in options.items() if name in _KEPT}
    due_at = unique = None
    if "at" in options:
        at: float = options["at"].timestamp()
        due_at = at if at > clock.wall() else None
    if "unique_key" in options:
        unique = Uniqueness.of(
            options["unique_key"], options.get("unique_for_s"), options.get("unique_states")
        )
    return EnqueueOptions(
        options.get("job_id"),
        options.get("queue"),
        options.get("priority"),
        due_at,
        JobOptions(**kept) if kept else None,
        unique,
        tuple([handle.job for handle in parents]) if parents else (),
        wire,
        wire,
    )
