"""What the value of a job's option must be: one check and one sentence for every door.

A kind checks what Python code gives, and turns it into plain data that a body of the native API can
carry and back. What does not fit is refused in words that begin with the option's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from worker_runtime.errors import ConfigurationError, InvalidJob
from worker_runtime.model.bounded import clean
from worker_runtime.model.job_id import check_job_id
from worker_runtime.model.states import PRIORITY_NAMES, Priority, State, no_priority
from worker_runtime.model.tasks.policy import Retry, is_number

AHEAD_MAX_S = 10 * 365 * 86_400.0
_SHOWN_CHARS_MAX = 100


class Kind(msgspec.Struct, frozen=True):
    """`words` say what a value must be, after "must be"."""

    words: str

    def checked(self, name: str, value: Any) -> Any:
        """The value as a job has it. Raises InvalidJob naming the option `name`."""
        raise NotImplementedError

    def as_plain(self, value: Any) -> Any:
        """A checked value as a body carries it."""
        return value

    def of_plain(self, name: str, value: Any) -> Any:
        """What a body carries, as Python code would give it; not checked any further. Raises
        InvalidJob."""
        return value

    def refusal(self, name: str, shown: str) -> InvalidJob:
        return InvalidJob(f"{name} must be {self.words}, not {shown}")


class Seconds(Kind, frozen=True):
    """A number of seconds up to `most_s`; None too, where that means something of its own."""

    most_s: float
    is_zero_allowed: bool
    is_none_allowed: bool

    @classmethod
    def up_to(
        cls, most_s: float, *, is_zero_allowed: bool = True, is_none_allowed: bool = False
    ) -> Seconds:
        least = "0 or more" if is_zero_allowed else "above 0"
        words = f"seconds, {least} and at most {most_s:.0f}"
        return cls(words, most_s, is_zero_allowed, is_none_allowed)

    def checked(self, name: str, value: Any) -> Any:
        if is_number(value) and 0 <= value <= self.most_s and (value or self.is_zero_allowed):
            return value
        if value is None and self.is_none_allowed:
            return None
        # A body's 5 has become 5.0 by now.
        shown = f"{value:.15g}" if isinstance(value, float) else str(value)
        raise self.refusal(name, repr(shown[:_SHOWN_CHARS_MAX]))


class Text(Kind, frozen=True):
    """Text of so many characters, cleaned: it is kept, sent and shown."""

    chars_min: int
    chars_max: int

    @classmethod
    def of(cls, chars_min: int, chars_max: int) -> Text:
        count = f"{chars_min} to {chars_max}" if chars_min else f"at most {chars_max}"
        return cls(f"text of {count} characters", chars_min, chars_max)

    def checked(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            text = clean(value)
            if self.chars_min <= len(text) <= self.chars_max:
                return text
            raise self.refusal(name, f"{len(value)} characters")
        raise self.refusal(name, _shown(value))


class QueueName(Kind, frozen=True):
    """Which queues there are is asked when the job is made."""

    words: str = "the name of a queue"

    def checked(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return value
        raise self.refusal(name, _shown(value))


class JobId(Kind, frozen=True):
    words: str = "text that matches [A-Za-z0-9._:-]{1,128}, neither . nor .."

    def checked(self, name: str, value: Any) -> Any:
        return check_job_id(value)


class Urgency(Kind, frozen=True):
    """A Priority; its name in lower case where it travels."""

    words: str = f"a Priority: one of {', '.join(reversed(PRIORITY_NAMES))}"

    def checked(self, name: str, value: Any) -> Any:
        if isinstance(value, Priority):
            return value
        raise InvalidJob(no_priority(value))

    def as_plain(self, value: Any) -> Any:
        return value.name.lower()

    def of_plain(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return Priority.named(value)
        except ValueError as error:
            raise InvalidJob(str(error)) from None


class Moment(Kind, frozen=True):
    """A datetime that names a moment; as RFC 3339 text in JSON. How far ahead it is, is asked where
    there is a clock."""

    words: str = f"an aware datetime at most {AHEAD_MAX_S:.0f} s ahead"

    def checked(self, name: str, value: Any) -> Any:
        if not isinstance(value, datetime):
            raise InvalidJob(f"{name} must be an aware datetime, not {_shown(value)}")
        if value.tzinfo is None:
            raise InvalidJob(f"{name} must be an aware datetime: a naive one names no moment")
        return value

    def of_plain(self, name: str, value: Any) -> Any:
        try:
            return msgspec.convert(value, datetime)
        except msgspec.ValidationError:
            return value


CLASSES_DO_NOT_TRAVEL = (
    "only_for names classes, which do not travel to another process; give it to @task(retry=...)"
)


class PlainRetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Retry` as it travels: without the classes, which have no name that every process knows."""

    max_attempts: int = Retry().max_attempts
    delay_s: float = Retry().delay_s
    factor: float = Retry().factor
    delay_max_s: float = Retry().delay_max_s
    jitter: float = Retry().jitter


class Tries(Kind, frozen=True):
    """A Retry, or None for no retry."""

    words: str = "a Retry or None"

    def checked(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, Retry):
            return value
        raise self.refusal(name, repr(str(value)[:_SHOWN_CHARS_MAX]))

    def as_plain(self, value: Any) -> Any:
        """Raises InvalidJob for one that names classes."""
        if value is None:
            return None
        if value.only_for != Retry().only_for:
            raise _classes_do_not_travel()
        return PlainRetry(*(getattr(value, field) for field in PlainRetry.__struct_fields__))

    def of_plain(self, name: str, value: Any) -> Any:
        if isinstance(value, PlainRetry):
            value = msgspec.structs.asdict(value)
        if not isinstance(value, dict):
            return value
        if "only_for" in value:
            raise _classes_do_not_travel()
        unknown = value.keys() - set(PlainRetry.__struct_fields__)
        if unknown:
            known = ", ".join(PlainRetry.__struct_fields__)
            raise InvalidJob(f"{name} has no field {_shown(min(map(str, unknown)))}, only {known}")
        try:
            return Retry(**value)
        except ConfigurationError as error:
            raise InvalidJob(str(error)) from None


def _classes_do_not_travel() -> InvalidJob:
    return InvalidJob(f"retry: {CLASSES_DO_NOT_TRAVEL}")


class States(Kind, frozen=True):
    """Some of a job's states; their words where they travel."""

    words: str = f"some of {', '.join(State)}"

    def checked(self, name: str, value: Any) -> Any:
        given = _items(value)
        if given is None:
            raise self.refusal(name, _shown(value))
        states = [state for state in State if state in given]
        if not states or len(states) < len(set(map(str, given))):
            shown = ", ".join(sorted(set(map(str, given))))[:_SHOWN_CHARS_MAX]
            raise self.refusal(name, shown or "none")
        return frozenset(states)

    def as_plain(self, value: Any) -> Any:
        return tuple(sorted(value))


class Jobs(Kind, frozen=True):
    """Kept jobs, as their ids. A door that takes handles asks them for their ids first."""

    words: str = "handles of jobs; over HTTP their ids"

    def checked(self, name: str, value: Any) -> Any:
        given = _items(value)
        if given is None:
            raise self.refusal(name, _shown(value))
        for one in given:
            if not isinstance(one, str):
                raise self.refusal(name, _shown(one))
            check_job_id(one)
        return tuple(given)

    def refusal(self, name: str, shown: str) -> InvalidJob:
        return InvalidJob(f"{name} must be handles of jobs, not {shown}; over HTTP their ids")


def _items(value: Any) -> list[Any] | None:
    """What is in a collection; None for a text, or what is none."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else None


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_CHARS_MAX]
