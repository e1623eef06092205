"""arq's cron jobs: when they are due, and enqueueing each due run once for the whole fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.redis.location import end_tasks

logger = logging.getLogger("arq.worker")

_WEEKDAYS = ("mon", "tues", "wed", "thurs", "fri", "sat", "sun")
_STEPS_MAX = 200_000
_LOOK_EVERY_S = 0.5
_AHEAD_S = 1.0

Enqueue = Callable[[str, str | None, datetime | None], Awaitable[Any]]
"""`enqueue(function, job_id, defer_until)`."""


class CronSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """Which moments match. A field is a number, some numbers, or None for all; `weekday` may be a
    name, 0 is Monday."""

    month: frozenset[int] | None = None
    day: frozenset[int] | None = None
    weekday: frozenset[int] | None = None
    hour: frozenset[int] | None = None
    minute: frozenset[int] | None = None
    second: frozenset[int] | None = frozenset({0})
    microsecond: int = 123_456
    run_at_startup: bool = False
    unique: bool = True
    job_id: str | None = None

    @classmethod
    def from_attributes(cls, source: Any) -> CronSchedule:
        """From what arq's or our `cron(...)` made. Raises ConfigurationError."""
        fields = ("month", "day", "weekday", "hour", "minute", "second")
        return cls(
            **{name: _numbers(name, getattr(source, name)) for name in fields},
            microsecond=source.microsecond,
            run_at_startup=source.run_at_startup,
            unique=source.unique,
            job_id=source.job_id,
        )

    def next_after(self, previous: datetime) -> datetime:
        """The first match at least a second after `previous`, whose timezone it keeps. Raises
        ConfigurationError where nothing ever matches."""
        at = (previous + timedelta(seconds=1)).replace(microsecond=0)
        for _ in range(_STEPS_MAX):
            midnight = at.replace(hour=0, minute=0, second=0)
            if self.month and at.month not in self.month:
                first = midnight.replace(day=1)
                at = (first + timedelta(days=31)).replace(day=1)
            elif (self.day and at.day not in self.day) or (
                self.weekday is not None and at.weekday() not in self.weekday
            ):
                at = midnight + timedelta(days=1)
            elif self.hour is not None and at.hour not in self.hour:
                at = at.replace(minute=0, second=0) + timedelta(hours=1)
            elif self.minute is not None and at.minute not in self.minute:
                at = at.replace(second=0) + timedelta(minutes=1)
            elif self.second is not None and at.second not in self.second:
                at += timedelta(seconds=1)
            else:
                return at.replace(microsecond=self.microsecond)
        raise ConfigurationError(f"cron schedule {self!r} matches no moment")


class CronLoop:
    """Enqueues due runs about a second ahead. Each worker of a fleet does so; the id of a run is
    made of its moment, so that only the first one counts."""

    def __init__(
        self,
        schedules: Sequence[tuple[str, CronSchedule]],
        enqueue: Enqueue,
        clock: Clock,
        timezone: tzinfo | None,
    ) -> None:
        self._schedules = schedules
        self._enqueue = enqueue
        self._clock = clock
        self._timezone = timezone or clock.now_utc().astimezone().tzinfo
        self._next: dict[int, datetime] = {}
        self._timer: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._schedules:
            self._timer = asyncio.get_running_loop().create_task(self._run(), name="arq-cron")

    async def stop(self) -> None:
        if self._timer is not None:
            await end_tasks([self._timer])

    async def look(self) -> None:
        """Enqueue what is due soon."""
        now = self._clock.now_utc().astimezone(self._timezone)
        for i, (name, schedule) in enumerate(self._schedules):
            due = self._next.get(i)
            if due is None:
                due = now if schedule.run_at_startup else schedule.next_after(now)
                self._next[i] = due
            if due < now + timedelta(seconds=_AHEAD_S):
                job_id = schedule.job_id
                if job_id is None and schedule.unique:
                    job_id = f"{name}:{round(due.timestamp() * 1000)}"
                await self._enqueue(name, job_id, due if due > now else None)
                self._next[i] = schedule.next_after(due)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # Redis is away: the same run is enqueued when it is back
                logger.warning("cron jobs could not be enqueued: %s", error)
            await asyncio.sleep(_LOOK_EVERY_S)


def _numbers(field: str, value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    if isinstance(value, str):
        if field != "weekday" or value.lower() not in _WEEKDAYS:
            or_one = f" or one of {', '.join(_WEEKDAYS)}" if field == "weekday" else ""
            raise ConfigurationError(f"cron {field}={value!r}: must be a number{or_one}")
        return frozenset({_WEEKDAYS.index(value.lower())})
    if isinstance(value, int):
        return frozenset({value})
    if isinstance(value, set | frozenset | list | tuple) and all(isinstance(v, int) for v in value):
        return frozenset(value)
    raise ConfigurationError(f"cron {field}={value!r}: must be a number or a set of numbers")
