"""Settings classes as arq reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from worker_runtime import ConfigurationError, task
from worker_runtime.arq import RedisSettings, cron, func
from worker_runtime.arq.cron import CronSchedule
from worker_runtime.arq.settings import read_settings


async def work(ctx: dict[str, Any]) -> None: ...


async def startup(ctx: dict[str, Any]) -> None: ...


def test_defaults_are_arqs() -> None:
    found = read_settings({"functions": [work]})
    assert (found.queue_name, found.max_jobs, found.job_timeout, found.max_tries) == (
        "arq:queue",
        10,
        300,
        5,
    )
    assert (found.keep_result, found.poll_delay, found.health_check_interval) == (3600, 0.5, 3600)


def test_a_class_is_read_without_what_it_inherits(caplog: pytest.LogCaptureFixture) -> None:
    class Base:
        max_jobs = 99

    class WorkerSettings(Base):
        description = "ours alone"
        functions = (work, func(work, name="other", timeout=timedelta(seconds=5), max_tries=2))
        on_startup = staticmethod(startup)
        job_timeout = timedelta(minutes=2)
        queue_name = "arq:queue:homer"

    found = read_settings(WorkerSettings)
    assert found.max_jobs == 10
    assert found.job_timeout == 120
    assert found.on_startup is startup
    assert [f.name for f in found.functions] == ["work", "other"]
    assert (found.functions[1].timeout_s, found.functions[1].max_tries) == (5, 2)
    assert "ignored, as arq does: description" in caplog.text


def test_redis_settings_are_known_by_their_attributes() -> None:
    theirs = SimpleNamespace(host="example", port=6380, database=3, password="secret", unknown=1)
    location = read_settings({"functions": [work], "redis_settings": theirs}).redis
    assert (location.host, location.port, location.database) == ("example", 6380, 3)
    assert "secret" not in location.shown
    ours = RedisSettings.from_dsn("redis://user:pw@example:6380/3")
    assert (ours.host, ours.port, ours.username, ours.database) == ("example", 6380, "user", 3)


def test_a_function_may_be_a_path() -> None:
    found = read_settings({"functions": ["asyncio.sleep"]})
    assert found.functions[0].name == "asyncio.sleep"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"functions": []}, "at least one function"),
        ({"functions": [len]}, "not a coroutine function"),
        ({"functions": ["nowhere.at_all"]}, "cannot be imported"),
        ({"functions": [work], "redis_pool": object()}, "redis_pool is not supported"),
        ({"functions": [work], "max_jobs": 0}, "max_jobs must be at least 1"),
        ({"functions": [work], "max_jobs": "ten"}, "max_jobs"),
        ({"functions": [work], "job_timeout": "long"}, "job_timeout must be seconds"),
        ({"functions": [work], "on_startup": 5}, "on_startup must be a coroutine function"),
        ({"functions": [work], "queue_name": ""}, "queue_name must not be empty"),
        ({"functions": [work], "unknown_functions": "eat"}, "must be leave or fail"),
        ({"functions": [work], "cron_jobs": [work]}, "what cron"),
        ({"functions": [work], "redis_settings": SimpleNamespace(port="x")}, "redis_settings"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_settings(wrong)


def test_a_sync_function_needs_a_task_mark() -> None:
    @task(run_in="process")
    def render() -> None: ...

    assert read_settings({"functions": [render]}).functions[0].coroutine is render


def _next(previous: str, **fields: Any) -> str:
    entry = cron(work, **fields)
    found = CronSchedule.from_attributes(entry).next_after(
        datetime.fromisoformat(previous).replace(tzinfo=UTC)
    )
    return found.strftime("%Y-%m-%d %H:%M:%S.%f")


MIDNIGHT = {"hour": 0, "minute": 0}


# The expected values are those of arq's own tests (`tests/test_cron.py`, 0.28).
@pytest.mark.parametrize(
    ("previous", "expected", "fields"),
    [
        ("2016-06-01T12:10:10", "2016-06-01 12:10:20.123456", {"second": 20}),
        ("2016-06-01T12:10:10", "2016-06-01 12:11:00.123456", {"minute": 11}),
        ("2016-06-01T12:10:10", "2016-06-01 12:10:20.000000", {"second": 20, "microsecond": 0}),
        ("2016-06-01T12:10:10", "2016-06-01 13:00:00.123456", {"hour": 13, "minute": 0}),
        ("2032-01-31T00:00:00", "2032-02-28 00:00:00.123456", {"day": 28} | MIDNIGHT),
        ("2016-06-01T12:10:10", "2016-06-05 00:00:00.123456", {"weekday": "sun"} | MIDNIGHT),
        ("2016-06-01T12:10:10", "2016-06-05 00:00:00.123456", {"weekday": 6} | MIDNIGHT),
        ("2016-06-01T12:10:10", "2017-01-01 00:00:00.123456", {"month": 1, "day": 1} | MIDNIGHT),
        ("2016-06-01T12:10:10", "2016-06-01 12:15:00.123456", {"minute": {5, 15, 45}}),
    ],
)  # fmt: skip
def test_cron_finds_the_next_moment(previous: str, expected: str, fields: dict[str, Any]) -> None:
    assert _next(previous, **fields) == expected


def test_a_schedule_that_never_matches_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="matches no moment"):
        _next("2016-06-01T12:10:10", month=2, day=30)
    with pytest.raises(ConfigurationError, match="weekday"):
        _next("2016-06-01T12:10:10", weekday="someday")
