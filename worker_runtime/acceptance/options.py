"""How a call of a task is written down: typed by the task, apart from the options of its job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from worker_runtime.acceptance.handle import JobHandle
from worker_runtime.clock.source import Clock
from worker_runtime.errors import InvalidJob
from worker_runtime.model.job import Job
from worker_runtime.model.states import Priority, State, no_priority
from worker_runtime.model.tasks.policy import JobOptions, Retry
from worker_runtime.model.uniqueness import Uniqueness

KEY_CHARS_MAX = 256
LABEL_CHARS_MAX = 2000
_DELAY_MAX_S = 10 * 365 * 86_400.0


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


# A job as its task's policy says, called over a wire: what most jobs of an HTTP door are.
WIRE = EnqueueOptions(must_encode=True, wire=True)


def handles_in(given: Iterable[JobHandle[Any]]) -> tuple[JobHandle[Any], ...]:
    """The handles as a tuple. Raises InvalidJob where another thing stands in their place."""
    handles = tuple(given) if isinstance(given, Iterable) else (given,)
    for one in handles:
        if not isinstance(one, JobHandle):
            raise InvalidJob(f"after must be handles of jobs, not {one!r:.200}")
    return handles


def enqueue_options(
    clock: Clock,
    *,
    job_id: str | None = None,
    queue: str | None = None,
    priority: Priority | None = None,
    delay_s: float | None = None,
    at: datetime | None = None,
    timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET,
    retry: Retry | msgspec.UnsetType | None = msgspec.UNSET,
    result_ttl_s: float | msgspec.UnsetType = msgspec.UNSET,
    expires_s: float | None = None,
    label: str | None = None,
    key: str | None = None,
    unique_key: str | None = None,
    unique_for_s: float | None = None,
    unique_states: Iterable[State] | None = None,
    after: Sequence[JobHandle[Any]] = (),
    wire: bool = False,
) -> EnqueueOptions:
    """Checked options of one job; `Runtime.options` says what they mean. `wire=True` for a job
    whose arguments came, and whose result goes, over one. Raises InvalidJob."""
    if priority is not None and not isinstance(priority, Priority):
        raise InvalidJob(no_priority(priority))
    overrides = _overrides(clock, timeout_s, retry, result_ttl_s, expires_s, label)
    unique = _uniqueness(unique_key, unique_for_s, unique_states)
    _check_text("key", key)
    if key is not None or unique is not None or after:
        overrides = msgspec.structs.replace(
            overrides or JobOptions(),
            key=key,
            unique_key=unique_key,
            after=tuple(handle.id for handle in after),
        )
    return EnqueueOptions(
        job_id=job_id,
        queue=queue,
        priority=priority,
        due_at=_due_at(clock, delay_s, at),
        overrides=overrides,
        unique=unique,
        parents=tuple(handle.job for handle in after),
        must_encode=wire,
        wire=wire,
    )


def _due_at(clock: Clock, delay_s: float | None, at: datetime | None) -> float | None:
    if at is not None:
        if delay_s is not None:
            raise InvalidJob("give delay_s or at, not both")
        if not isinstance(at, datetime):
            raise InvalidJob(f"at must be an aware datetime, not {at!r:.100}")
        if at.tzinfo is None:
            raise InvalidJob("at must be an aware datetime: a naive one names no moment")
        delay_s = at.timestamp() - clock.wall()
        return None if delay_s <= 0 else _due_at(clock, delay_s, None)
    if delay_s is None:
        return None
    _check_seconds("delay_s", delay_s, _DELAY_MAX_S)
    return clock.wall() + delay_s if delay_s else None


def _overrides(
    clock: Clock,
    timeout_s: float | msgspec.UnsetType | None,
    retry: Retry | msgspec.UnsetType | None,
    result_ttl_s: float | msgspec.UnsetType,
    expires_s: float | None,
    label: str | None,
) -> JobOptions | None:
    if timeout_s is not msgspec.UNSET and timeout_s is not None:
        _check_seconds("timeout_s", timeout_s, 1e9, is_zero_allowed=False)
    if result_ttl_s is not msgspec.UNSET:
        _check_seconds("result_ttl_s", result_ttl_s, 1e10)
    if expires_s is not None:
        _check_seconds("expires_s", expires_s, 1e10, is_zero_allowed=False)
    if not isinstance(retry, Retry | msgspec.UnsetType | None):
        raise InvalidJob(f"retry must be a Retry or None, not {str(retry)[:100]!r}")
    if label is not None and not (isinstance(label, str) and len(label) <= LABEL_CHARS_MAX):
        raise InvalidJob(
            f"label must be text of at most {LABEL_CHARS_MAX} characters, not {_shown(label)}"
        )
    options = JobOptions(
        timeout_s=timeout_s,
        retry=retry,
        result_ttl_s=result_ttl_s,
        expires_at=None if expires_s is None else clock.wall() + expires_s,
        label=label,
    )
    return None if options == JobOptions() else options


def _uniqueness(
    key: str | None, for_s: float | None, states: Iterable[State] | None
) -> Uniqueness | None:
    if key is None:
        if for_s is not None or states is not None:
            raise InvalidJob("unique_for_s and unique_states mean nothing without unique_key")
        return None
    _check_text("unique_key", key)
    if for_s is not None:
        _check_seconds("unique_for_s", for_s, 1e9, is_zero_allowed=False)
    return Uniqueness.of(key, for_s, None if states is None else _states(states))


def _states(given: Iterable[State]) -> frozenset[State]:
    states = frozenset(given)
    if not states or not states <= frozenset(State):
        given_names = ", ".join(sorted(map(str, states))) or "none"
        raise InvalidJob(f"unique_states must be some of {', '.join(State)}, not {given_names}")
    return states


def _check_text(name: str, value: object) -> None:
    is_fit = isinstance(value, str) and 0 < len(value) <= KEY_CHARS_MAX
    if value is not None and not is_fit:
        raise InvalidJob(
            f"{name} must be text of 1 to {KEY_CHARS_MAX} characters, not {_shown(value)}"
        )


def _shown(value: object) -> str:
    return f"{len(value)} characters" if isinstance(value, str) else repr(value)[:100]


def _check_seconds(
    name: str, value: object, most_s: float, *, is_zero_allowed: bool = True
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (0 < value <= most_s or (value == 0 and is_zero_allowed)):  # type: ignore[operator]
        return
    least = "0 or more" if is_zero_allowed else "above 0"
    raise InvalidJob(
        f"{name} must be seconds, {least} and at most {most_s:.0f}, not {str(value)[:100]!r}"
    )
