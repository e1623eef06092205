"""Periodic jobs: exactly one job per tick of a cron expression, across restarts.

A tick's job has an id made of the schedule's name and the tick's time, so that enqueueing it twice
is one job. The last tick is noted in the store after its job was accepted: a crash between the two
repeats the enqueueing, not the job.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, tzinfo
from typing import Literal, ParamSpec, TypeVar, get_args
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ConfigurationError, Refused, Unavailable
from worker_runtime.model.states import JOB_ID_PATTERN
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.stores.boundary import Store

logger = logging.getLogger("worker_runtime.cron")

P = ParamSpec("P")
R = TypeVar("R")

Missed = Literal["once", "skip", "all"]

_MARK = "__worker_runtime_cron__"
MISSED_TICKS_MAX = 1_000
# The wall clock may be set while the loop sleeps; looking again bounds how late a tick comes.
_SLEEP_MAX_S = 30.0
_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)  # the check of an expression wants one
_NAME_CHARS_MAX = 100  # an id of 128 characters has room for it and a time


class CronMark(msgspec.Struct, frozen=True):
    """One `@cron(...)` on a function."""

    expression: str
    zone: str
    missed: Missed
    name: str | None


class CronInfo(msgspec.Struct, frozen=True):
    """A schedule as others see it. `last_at` is None before the first tick, `next_at` where the
    expression has no further one."""

    name: str
    task: str
    expression: str
    zone: str
    missed: Missed
    last_at: datetime | None
    next_at: datetime | None


def cron(
    expression: str, *, tz: str = "UTC", missed: Missed = "once", name: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a task enqueued, without arguments, at each tick of a five-field cron `expression`.

    tz      an IANA time zone; a time of day that daylight saving skips or repeats comes once
    missed  ticks that passed while no worker ran: one job for all of them (`once`), none (`skip`)
            or one each (`all`, at most the newest 1,000)
    name    the schedule's, when the task's name would not do; it must stay the same across restarts

    May be used several times on one function. Raises ConfigurationError.
    """
    mark = CronMark(expression, tz, missed, name)
    _check(mark)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        setattr(function, _MARK, [*getattr(function, _MARK, ()), mark])
        return function

    return decorate


class Schedule:
    """A cron mark of a registered task, and where it stands. Times are Unix seconds."""

    def __init__(self, name: str, task: TaskDefinition, mark: CronMark) -> None:
        self.name = name
        self.task = task
        self.mark = mark
        self.last_at: float | None = None
        self.next_at: float | None = None
        self._zone = _zone(mark)

    def tick_after(self, at: float) -> float | None:
        """The first tick after `at`; None where the expression has no further one."""
        ticks = CronSim(self.mark.expression, datetime.fromtimestamp(at, self._zone))
        # Within an hour that daylight saving repeats, the first may be one of the hour before.
        times = (tick.timestamp() for tick in ticks)
        return next((tick_at for tick_at in times if tick_at > at), None)

    def ticks_between(self, after: float, until: float) -> list[float]:
        """The newest ticks in (after, until], oldest first, at most MISSED_TICKS_MAX."""
        ticks: list[float] = []
        tick = self.tick_after(after)
        while tick is not None and tick <= until:
            ticks.append(tick)
            del ticks[:-MISSED_TICKS_MAX]
            tick = self.tick_after(tick)
        return ticks

    def info(self) -> CronInfo:
        return CronInfo(
            name=self.name,
            task=self.task.name,
            expression=self.mark.expression,
            zone=self.mark.zone,
            missed=self.mark.missed,
            last_at=None if self.last_at is None else datetime.fromtimestamp(self.last_at, UTC),
            next_at=None if self.next_at is None else datetime.fromtimestamp(self.next_at, UTC),
        )


def schedules_of(tasks: Iterable[TaskDefinition]) -> list[Schedule]:
    """The schedules marked on the functions of `tasks`. Raises ConfigurationError."""
    schedules: dict[str, Schedule] = {}
    for task in tasks:
        marks: list[CronMark] = getattr(task.fn, _MARK, [])
        for number, mark in enumerate(marks, 1):
            name = mark.name or (task.name if number == 1 else f"{task.name}-{number}")
            if name in schedules:
                raise ConfigurationError(
                    f"two cron schedules are called {name!r}: name one of them"
                )
            if not task.signature.nothing_required:
                raise ConfigurationError(
                    f"cron task {task.name!r} needs arguments, and a tick has none to give"
                )
            schedules[name] = Schedule(name, task, mark)
    return list(schedules.values())


class CronService:
    """Enqueues the job of each tick when it is due.

    enqueue  accepts a schedule's job under an id; must take the same id twice without a second job
    store    remembers the last tick of each schedule, as long as it keeps jobs
    """

    def __init__(
        self,
        schedules: list[Schedule],
        *,
        enqueue: Callable[[TaskDefinition, str], Awaitable[None]],
        store: Store,
        clock: Clock,
    ) -> None:
        self.schedules = schedules
        self._enqueue = enqueue
        self._store = store
        self._wall = clock.wall
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make up for missed ticks as each schedule says, and begin to keep time."""
        now = self._wall()
        for schedule in self.schedules:
            schedule.last_at = await self._load(schedule.name)
            if schedule.last_at is None:
                # Noted at once: what passes from here on is missed, also before a first tick.
                await self._note(schedule.name, now)
                schedule.next_at = schedule.tick_after(now)
            else:
                schedule.next_at = schedule.tick_after(schedule.last_at)
        if self.schedules:
            self._runner = asyncio.create_task(self._keep_time(), name="cron")

    async def stop(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])

    async def _keep_time(self) -> None:
        while True:
            now = self._wall()
            wait_s = _SLEEP_MAX_S
            for schedule in self.schedules:
                if schedule.next_at is not None and schedule.next_at <= now:
                    wait_s = min(wait_s, await self._run_due(schedule, now))
                if schedule.next_at is not None:
                    wait_s = min(wait_s, max(0.0, schedule.next_at - self._wall()))
            await asyncio.sleep(wait_s)

    async def _run_due(self, schedule: Schedule, now: float) -> float:
        """Enqueue what is due. Returns how long to wait before what could not be is tried again."""
        assert schedule.next_at is not None
        for tick in self._due_ticks(schedule, schedule.next_at, now):
            try:
                await self._enqueue(schedule.task, f"cron:{schedule.name}:{tick:.0f}")
                await self._note(schedule.name, tick)
            except Unavailable as error:
                logger.warning("cron %s: not accepted, tried again: %s", schedule.name, error)
                schedule.next_at = tick
                return error.retry_after_s
            except Refused as error:
                logger.error("cron %s: tick dropped: %s", schedule.name, error)
            schedule.last_at = tick
        schedule.next_at = schedule.tick_after(max(now, schedule.next_at))
        return _SLEEP_MAX_S

    async def _load(self, schedule: str) -> float | None:
        """The last noted tick of a schedule in Unix seconds, None for a new one."""
        text = await self._store.load_note(f"cron:{schedule}")
        return None if text is None else float(text)

    async def _note(self, schedule: str, tick: float) -> None:
        await self._store.save_note(f"cron:{schedule}", repr(tick))

    def _due_ticks(self, schedule: Schedule, first: float, now: float) -> list[float]:
        ticks = schedule.ticks_between(first - 1.0, now)
        on_time = [tick for tick in ticks if tick > now - _SLEEP_MAX_S]
        if schedule.mark.missed == "all":
            return ticks
        return on_time if schedule.mark.missed == "skip" else ticks[-1:]


def _check(mark: CronMark) -> None:
    try:
        CronSim(mark.expression, _ANY_MOMENT)
    except CronSimError as error:
        raise ConfigurationError(f"cron expression {mark.expression!r}: {error}") from None
    _zone(mark)
    if mark.missed not in get_args(Missed):
        raise ConfigurationError(
            f"missed must be one of {', '.join(get_args(Missed))}, not {mark.missed!r}"
        )
    if mark.name is not None and (
        len(mark.name) > _NAME_CHARS_MAX or not re.fullmatch(JOB_ID_PATTERN, mark.name)
    ):
        raise ConfigurationError(
            f"cron name {mark.name!r} must match {JOB_ID_PATTERN}, {_NAME_CHARS_MAX} at most"
        )


def _zone(mark: CronMark) -> tzinfo:
    try:
        return ZoneInfo(mark.zone)
    except Exception as error:  # a missing key, a bad key, a path outside of the database
        raise ConfigurationError(f"time zone {mark.zone!r} is not known: {error}") from None
