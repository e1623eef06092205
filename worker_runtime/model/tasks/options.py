"""A job's options, declared once: `OPTIONS`, and the two structs whose fields they are.

`Runtime.options` and `Client.options` spell the names again as keywords, docs/job_options.md in a
table: tests hold all of it against the declaration. Whatever else handles options goes through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from worker_runtime.clock.source import Clock
from worker_runtime.errors import InvalidJob
from worker_runtime.model.states import Priority, State
from worker_runtime.model.tasks.kinds import (
    AHEAD_MAX_S,
    JobId,
    Jobs,
    Kind,
    Moment,
    PlainRetry,
    QueueName,
    Seconds,
    States,
    Text,
    Tries,
    Urgency,
)
from worker_runtime.model.tasks.policy import Retry

InRedis = Literal["kept", "refused"]


class Option(msgspec.Struct, frozen=True):
    """One option of a job.

    name      the keyword in Python; the unit of a number is its ending
    type      the keyword's annotation; `Client.options` and the bodies give jobs by their ids
    kind      what a value must be
    meaning   one sentence
    kept_as   where a kept job has it, from the Job on; None: it only decides what is accepted
    in_redis  what a Redis store makes of it; memory and SQLite keep all that has a `kept_as`
    absent    what stands for "not given"
    wire      its name in the bodies of the native API; the same where it is not given
    """

    name: str
    type: Any
    kind: Kind
    meaning: str
    kept_as: str | None
    in_redis: InRedis = "kept"
    absent: Any = None
    wire: str = ""

    def __post_init__(self) -> None:
        if not self.wire:
            msgspec.structs.force_setattr(self, "wire", self.name)

    @property
    def field(self) -> str | None:
        """The field of `JobOptions` that keeps it; None where another does, or none."""
        return (self.kept_as or "").partition("options.")[2] or None


OPTIONS = (
    Option(
        "job_id",
        str | None,
        JobId(),
        "The job's own id: a kept job of that id and payload is the answer, and no second one.",
        kept_as="id",
        wire="id",
    ),
    Option(
        "queue",
        str | None,
        QueueName(),
        "The line it waits in.",
        kept_as="queue",
    ),
    Option(
        "priority",
        Priority | None,
        Urgency(),
        "A ready job of a higher priority starts first.",
        kept_as="priority",
    ),
    Option(
        "delay_s",
        float | None,
        Seconds.up_to(AHEAD_MAX_S),
        "It becomes due so long after it was accepted.",
        kept_as="due_at",
    ),
    Option(
        "at",
        datetime | None,
        Moment(),
        "It becomes due then; instead of `delay_s`.",
        kept_as="due_at",
    ),
    Option(
        "timeout_s",
        float | UnsetType | None,
        Seconds.up_to(1e9, is_zero_allowed=False, is_none_allowed=True),
        "The longest an attempt may run; None for no limit.",
        kept_as="options.timeout_s",
        absent=UNSET,
    ),
    Option(
        "result_ttl_s",
        float | UnsetType,
        Seconds.up_to(1e10),
        "How long it is kept once it has ended.",
        kept_as="options.result_ttl_s",
        absent=UNSET,
    ),
    Option(
        "retry",
        Retry | UnsetType | None,
        Tries(),
        "When and how often a failed attempt is tried again; None for never.",
        kept_as="options.retry",
        absent=UNSET,
    ),
    Option(
        "expires_s",
        float | None,
        Seconds.up_to(1e10, is_zero_allowed=False),
        "It fails as `expired` where it has not started so long after it was accepted.",
        kept_as="options.expires_at",
    ),
    Option(
        "label",
        str | None,
        Text.of(0, 2000),
        "Shown back to whoever asks for the job.",
        kept_as="options.label",
    ),
    Option(
        "key",
        str | None,
        Text.of(1, 256),
        "The party that takes turns with others, and whose limits per key count.",
        kept_as="options.key",
        in_redis="refused",
    ),
    Option(
        "unique_key",
        str | None,
        Text.of(1, 256),
        "An unfinished job of that key is the answer, and no second one.",
        kept_as="options.unique_key",
        in_redis="refused",
    ),
    Option(
        "unique_for_s",
        float | None,
        Seconds.up_to(1e9, is_zero_allowed=False),
        "With `unique_key`: only a job accepted within that time counts, but also a completed one.",
        kept_as=None,
        in_redis="refused",
    ),
    Option(
        "unique_states",
        Iterable[State] | None,
        States(),
        "With `unique_key`: only a job in one of these states counts.",
        kept_as=None,
        in_redis="refused",
    ),
    Option(
        "after",
        Sequence[Any],
        Jobs(),
        "It waits until these have completed, and is cancelled when one of them fails.",
        kept_as="options.after",
        in_redis="refused",
        absent=(),
    ),
)
NAMED = {option.name: option for option in OPTIONS}


class PlainOptions(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """The options as plain data: what a body of the native API carries."""

    id: str | None = None
    queue: str | None = None
    priority: str | None = None
    delay_s: float | None = None
    at: datetime | None = None
    timeout_s: float | UnsetType | None = UNSET
    result_ttl_s: float | UnsetType = UNSET
    retry: PlainRetry | UnsetType | None = UNSET
    expires_s: float | None = None
    label: str | None = None
    key: str | None = None
    unique_key: str | None = None
    unique_for_s: float | None = None
    unique_states: tuple[State, ...] | None = None
    after: tuple[str, ...] = ()


class JobOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one job overrides of its task's policy, and what only a job can have: the options that
    are kept with it, under names that files of earlier releases hold.

    UNSET means: as the task says. `expires_at` is Unix seconds. Two are no options of a caller's:
    `takes_results` puts the result of the first one in `after`, or a list of all, before the job's
    own arguments; `sent` is the call as JSON text, for a door that shows it as it came where the
    arguments do not tell.
    """

    timeout_s: float | UnsetType | None = UNSET
    retry: Retry | UnsetType | None = UNSET
    result_ttl_s: float | UnsetType = UNSET
    expires_at: float | None = None
    label: str | None = None
    key: str | None = None
    unique_key: str | None = None
    after: tuple[str, ...] = ()
    takes_results: Literal["one", "all"] | None = None
    sent: str | None = None


NO_OPTIONS = JobOptions()
NOT_OFFERED = ("takes_results", "sent")  # fields of it that are nobody's option

# What the functions below ask of each option, bound once: doors go through all of them often.
_plain_values = attrgetter(*(option.wire for option in OPTIONS))
_OF_PLAIN = [(option.name, option.absent, option.kind.of_plain) for option in OPTIONS]
_CHECKS = {option.name: (option.absent, option.kind.checked) for option in OPTIONS}


def checked(clock: Clock, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are given, each as a job has it. Raises InvalidJob."""
    found = {}
    for name, value in given.items():
        absent, check = _CHECKS[name]
        if value is not absent:
            found[name] = check(name, value)
    if "delay_s" in found and "at" in found:
        raise InvalidJob("give delay_s or at, not both")
    if "at" in found and found["at"].timestamp() - clock.wall() > AHEAD_MAX_S:
        raise NAMED["at"].kind.refusal("at", found["at"].isoformat())
    if "unique_key" not in found and ("unique_for_s" in found or "unique_states" in found):
        raise InvalidJob("unique_for_s and unique_states mean nothing without unique_key")
    return found


def as_plain(clock: Clock, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are given, as fields of `PlainOptions`. Raises InvalidJob."""
    return {
        NAMED[name].wire: NAMED[name].kind.as_plain(value)
        for name, value in checked(clock, given).items()
    }


def of_plain(plain: PlainOptions) -> dict[str, Any]:
    """Those of the options that a body gives, as Python code would; not checked. Raises InvalidJob
    where that cannot be told."""
    return {
        name: read(name, value)
        for (name, absent, read), value in zip(_OF_PLAIN, _plain_values(plain), strict=True)
        if value is not absent
    }


def check_plain(fields: Mapping[str, Any]) -> None:
    """Raises InvalidJob for the first option among a body's fields that is not what it must be."""
    for option in OPTIONS:
        value = fields.get(option.wire, option.absent)
        if value is not option.absent:
            option.kind.checked(option.name, option.kind.of_plain(option.name, value))
