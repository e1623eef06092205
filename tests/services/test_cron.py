"""Cron: one job per tick, across restarts, and what becomes of ticks that were missed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from worker_runtime import ConfigurationError, JobInfo, Runtime, State, cron, task
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.services.cron import Missed, Schedule, schedules_of

EACH_SECOND = "* * * * * *"


@cron("*/5 * * * *")
async def every_five_minutes() -> None: ...


def schedule(expression: str, tz: str = "UTC") -> Schedule:
    @cron(expression, tz=tz)
    async def tick() -> None: ...

    registry = TaskRegistry(queue="default", timeout_s=None)
    registry.add(tick)
    return schedules_of(registry)[0]


async def ticked(runtime: Runtime, task_name: str = "tick") -> list[JobInfo]:
    jobs = (await runtime.list_jobs(task=task_name, limit=1000)).jobs
    return [job for job in jobs if job.state is State.COMPLETED]


def test_a_tick_comes_after_the_time_asked_for_never_at_it() -> None:
    at = 1_700_000_100.0  # 22:15:00 UTC
    assert schedule("*/5 * * * *").tick_after(at) == at + 300
    assert schedule("*/5 * * * *").tick_after(at - 1) == at


def test_a_zone_shifts_the_ticks_also_over_daylight_saving() -> None:
    berlin = schedule("30 8 * * *", "Europe/Berlin")
    saturday = (
        1_711_785_600.0  # 2024-03-30 08:00 UTC, 09:00 in Berlin; the clock changes that night
    )
    sunday = berlin.tick_after(saturday)
    assert sunday == 1_711_866_600.0  # 06:30 UTC
    assert berlin.tick_after(sunday) == sunday + 86_400


def test_no_tick_comes_before_the_time_asked_for_while_an_hour_repeats() -> None:
    berlin = schedule("30 2 * * *", "Europe/Berlin")
    again_two = 1_792_890_000.0  # 2026-10-25 01:00 UTC, 02:00 in Berlin for the second time
    assert berlin.tick_after(again_two - 3600) == again_two - 1800
    assert berlin.tick_after(again_two) == again_two + 86_400 + 1800


@pytest.mark.parametrize(
    ("expression", "tz", "missed", "name", "says"),
    [
        ("61 * * * *", "UTC", "once", None, "61 * * * *"),
        ("hourly", "UTC", "once", None, "hourly"),
        ("0 0 30 2 *", "UTC", "once", None, "day-of-month"),
        ("* * * * *", "Mars/Olympus", "once", None, "Mars/Olympus"),
        ("* * * * *", "UTC", "sometimes", None, "once, skip, all"),
        ("* * * * *", "UTC", "once", "two words", "two words"),
    ],
)
def test_what_cannot_work_is_refused_at_the_decorator(
    expression: str, tz: str, missed: Missed, name: str | None, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("*", r"\*")):
        cron(expression, tz=tz, missed=missed, name=name)


def test_a_task_that_needs_arguments_is_refused() -> None:
    @cron("* * * * *")
    async def greedy(number: int) -> None: ...

    with pytest.raises(ConfigurationError, match="greedy"):
        Runtime([greedy])


def test_two_schedules_of_one_name_are_refused() -> None:
    @cron("* * * * *", name="same")
    async def one() -> None: ...

    @cron("* * * * *", name="same")
    async def two() -> None: ...

    with pytest.raises(ConfigurationError, match="same"):
        Runtime([one, two])


async def test_each_tick_is_one_job() -> None:
    @cron(EACH_SECOND)
    @task
    async def tick() -> None: ...

    async with Runtime([tick]) as runtime:
        jobs = await eventually(lambda: _at_least(runtime, 2), 10)
        assert len({job.id for job in jobs}) == len(jobs)
        assert all(job.id.startswith("cron:tick:") for job in jobs)
        (info,) = runtime.crons()
        assert info.last_at is not None
        assert info.next_at is not None
        assert info.next_at > info.last_at


async def _at_least(runtime: Runtime, count: int) -> list[JobInfo] | None:
    jobs = await ticked(runtime)
    return jobs if len(jobs) >= count else None


async def test_several_schedules_on_one_task_have_names_of_their_own() -> None:
    @cron("0 0 * * *")
    @cron("0 12 * * *")
    async def tick() -> None: ...

    async with Runtime([tick]) as runtime:
        assert [info.name for info in runtime.crons()] == ["tick", "tick-2"]


@pytest.mark.parametrize(("missed", "expected"), [("once", 1), ("skip", 0), ("all", 3)])
async def test_ticks_missed_while_nothing_ran(
    tmp_path: Path, missed: Missed, expected: int
) -> None:
    @cron("0 * * * *", missed=missed)
    async def tick() -> None: ...

    url = f"sqlite:///{tmp_path}/jobs.db"
    async with Runtime([tick], store=url) as runtime:
        store = runtime.parts.store
        assert store is not None
        three_hours_ago = time.time() - 3 * 3600
        await store.save_note("cron:tick", repr(three_hours_ago))
    async with Runtime([tick], store=url) as runtime:
        await eventually(lambda: _scheduled(runtime))
        await runtime.join()
        made_up = [j for j in await ticked(runtime) if _tick_of(j) < time.time() - 60]
        on_the_hour = time.time() % 3600 < 60  # then the newest missed tick is not a minute old
        assert len(made_up) in ({expected, expected - 1} if on_the_hour else {expected})
    async with Runtime([tick], store=url) as runtime:  # nothing is made up for twice
        await eventually(lambda: _scheduled(runtime))
        await runtime.join()
        assert not list(runtime.doorway.jobs_here())


def _scheduled(runtime: Runtime) -> bool:
    (info,) = runtime.crons()
    return info.next_at is not None and info.next_at.timestamp() > time.time()


def _tick_of(job: JobInfo) -> int:
    return int(job.id.rpartition(":")[2])
