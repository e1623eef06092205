"""A job becomes a row and comes back as it was, as far as MessagePack and annotations reach."""

from __future__ import annotations

import enum
import sqlite3
import sys
import types
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.support.sqlite_stores import registry
from worker_runtime.errors import InvalidArguments, PayloadTooLarge, RemoteFailure
from worker_runtime.model.activity import (
    ATTEMPTS_KEPT_MAX,
    Activity,
    AttemptRecord,
    Failure,
    Progress,
)
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Transition
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.model.states import COMPLETED, FAILED, QUEUED, SCHEDULED, Reason
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.tasks.policy import Retry
from worker_runtime.stores.sqlite.exception_names import exception_class
from worker_runtime.stores.sqlite.file.schema import MIGRATIONS
from worker_runtime.stores.sqlite.file.statements import insert
from worker_runtime.stores.sqlite.rows import (
    ALL,
    STANDS_FOR_NULL,
    change_row,
    changed_columns,
    decode_job,
    encode_payload,
    new_row,
)


class Colour(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    day: date


def made(tasks: TaskRegistry, name: str, *args: Any, **kwargs: Any) -> Job:
    definition = tasks.find(name)
    bound, named = definition.signature.bind(args, kwargs)
    return Job("id-1", definition, bound, named, "default", 2, 7, 1_700_000_000.0)


def row_of(job: Job, transition: Transition | None = None) -> list[Any]:
    row = new_row(job, encode_payload(job, 1 << 20))
    if transition is not None:
        change_row(row, changed_columns(job, transition))
    return row


def written(row: list[Any]) -> tuple[Any, ...]:
    """The row as the file gives it back."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        MIGRATIONS[0](connection)
        insert(connection, [row])
        found = connection.execute(f"SELECT {', '.join(ALL)} FROM worker_jobs").fetchall()
    finally:
        connection.close()
    assert len(found) == 1
    return tuple(found[0])


def back(row: list[Any], tasks: TaskRegistry, *, checked: bool = True) -> Job:
    return decode_job(written(row), tasks.find_or_park, checked=checked)


def rich(
    at: datetime,
    day: date,
    key: UUID,
    price: Decimal,
    wait: timedelta,
    raw: bytes,
    colour: Colour,
    point: Point,
    tags: set[str],
    pair: tuple[int, str],
    anything: object = None,
    *,
    named: list[Point] | None = None,
) -> Point:
    raise NotImplementedError


def test_annotated_arguments_come_back_as_their_types() -> None:
    tasks = registry(rich)
    args = (
        datetime(2024, 2, 29, 12, 30, 1, 999, UTC),
        date(2024, 2, 29),
        uuid4(),
        Decimal("1.10"),
        timedelta(days=1, seconds=2),
        b"\x00\xff",
        Colour.RED,
        Point(1, date(2024, 1, 1)),
        {"a", "b"},
        (1, "x"),
        {"k": [1, None, 2.5]},
    )
    job = made(tasks, "rich", *args, named=[Point(2, date(2024, 1, 2))])
    again = back(row_of(job), tasks)
    assert again.args == args
    assert again.kwargs == {"named": [Point(2, date(2024, 1, 2))]}
    assert (again.id, again.queue, again.priority, again.order) == ("id-1", "default", 2, 7)
    assert (again.created_at, again.state, again.attempt) == (1_700_000_000.0, QUEUED, 0)


def test_a_result_comes_back_as_the_annotated_type_or_as_decoded() -> None:
    def untyped():  # type: ignore[no-untyped-def]
        raise NotImplementedError

    tasks = registry(rich, untyped)
    for name, value, expected in (
        ("rich", Point(1, date(2024, 1, 1)), Point(1, date(2024, 1, 1))),
        ("rich", {"x": "not a point"}, {"x": "not a point"}),
        ("untyped", (1, 2), [1, 2]),
        ("untyped", None, None),
    ):
        job = Job("id-1", tasks.find(name), (), None, "default", 2, 7, 0.0)
        row = row_of(job, Transition(COMPLETED, 5.0, value, attempt=1))
        again = back(row, tasks, checked=False)
        assert again.result == expected
        assert (again.state, again.ended_at, again.attempt) == (COMPLETED, 5.0, 1)


def plain(n: int) -> None:
    raise NotImplementedError


def test_a_delayed_job_is_scheduled_and_a_due_one_queued() -> None:
    tasks = registry(plain)
    job = made(tasks, "plain", 1)
    job.due_at = job.created_at + 60
    assert back(row_of(job), tasks).state is SCHEDULED
    assert back(row_of(job), tasks).due_at == job.due_at
    job.due_at = job.created_at - 60
    assert back(row_of(job), tasks).state is QUEUED


def test_what_a_job_does_not_have_is_null_in_the_file() -> None:
    job = made(registry(plain), "plain", 1)
    new = dict(zip(ALL, written(row_of(job)), strict=True))
    assert {name for name, value in new.items() if value is None} == set(STANDS_FOR_NULL)
    job.started_at = 5.0
    ended = dict(zip(ALL, written(row_of(job, Transition(COMPLETED, 6.0, None))), strict=True))
    missing = {name for name, value in ended.items() if value is None}
    assert missing == set(STANDS_FOR_NULL) - {"started_at", "ended_at"}


def test_options_come_back_with_their_exception_classes() -> None:
    tasks = registry(plain)
    job = made(tasks, "plain", 1)
    retry = Retry(max_attempts=7, delay_s=0.5, only_for=(ValueError, msgspec.ValidationError))
    job.options = JobOptions(timeout_s=None, retry=retry, result_ttl_s=5.0, label="nightly")
    assert back(row_of(job), tasks).options == job.options
    job.options = JobOptions(retry=None, expires_at=9.0, sent='{"n": 1}')
    assert back(row_of(job), tasks).options == job.options


def test_options_stand_in_a_file_as_earlier_releases_wrote_them() -> None:
    tasks = registry(plain)
    job = made(tasks, "plain", 1)
    job.options = JobOptions(
        timeout_s=None,
        retry=Retry(max_attempts=7, only_for=(ValueError, msgspec.ValidationError)),
        result_ttl_s=5.0,
        expires_at=9.0,
        label="l",
        key="k",
        unique_key="u",
        after=("a", "b"),
        takes_results="one",
        sent="{}",
    )
    stored = dict(zip(ALL, row_of(job), strict=True))["options"]
    retry = {"max_attempts": 7, "delay_s": 1.0, "factor": 2.0, "delay_max_s": 600.0, "jitter": 0.25}
    assert bytes(stored) == msgspec.msgpack.encode(
        {
            "timeout_s": None,
            "retry": {**retry, "only_for": ["builtins.ValueError", "msgspec.ValidationError"]},
            "result_ttl_s": 5.0,
            "expires_at": 9.0,
            "label": "l",
            "key": "k",
            "unique_key": "u",
            "after": ["a", "b"],
            "takes_results": "one",
            "sent": "{}",
        }
    )
    assert back(row_of(job), tasks).options == job.options
    job.options = JobOptions(retry=Retry(), label="half \ud800")
    kept = back(row_of(job), tasks).options
    assert kept == JobOptions(retry=Retry(), label="half \\ud800")


def test_an_exception_of_an_unloaded_module_matches_by_name() -> None:
    kind = exception_class("tests_not_loaded.Refused")
    retry = Retry(only_for=(kind,))
    module = types.ModuleType("tests_not_loaded")
    base = type("Refused", (Exception,), {"__module__": module.__name__})
    derived = type("VeryRefused", (base,), {"__module__": module.__name__})
    assert retry.admits(derived())
    assert not retry.admits(ValueError())
    lineage = ("tests_not_loaded.VeryRefused", "tests_not_loaded.Refused", "builtins.Exception")
    assert retry.admits(RemoteFailure("VeryRefused", "", lineage=lineage, traceback=""))
    assert exception_class("builtins.KeyError") is KeyError
    assert not isinstance(print, exception_class("builtins.print"))
    module.Refused = base  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        assert exception_class("tests_not_loaded.Refused") is base
    finally:
        del sys.modules[module.__name__]


def test_attempts_failure_and_progress_come_back() -> None:
    tasks = registry(plain)
    job = made(tasks, "plain", 1)
    job.attempt, job.started_at = 2, 11.0
    first = AttemptRecord(1, 9.0, 10.0, Failure(Reason.TIMEOUT, "TimeoutError", "slow"))
    job.activity = Activity(progress=Progress(3, 10, "bar", 12.0), attempts=[first])
    failure = Failure(Reason.ERROR, "ValueError", "no", "trace", note="n")

    waiting = Transition(SCHEDULED, 13.0, None, failure, 20.0, 2, 0)
    again = back(row_of(job, waiting), tasks)
    assert again.activity is not None
    assert again.activity.attempts == [first, AttemptRecord(2, 11.0, 13.0, failure)]
    assert again.activity.progress == Progress(3, 10, "bar", 12.0)
    assert (again.state, again.due_at, again.failure) == (SCHEDULED, 20.0, None)

    ended = back(row_of(job, Transition(FAILED, 13.0, None, failure, 0.0, 2, 1)), tasks)
    assert ended.failure == failure
    assert ended.activity is not None
    assert ended.activity.attempts == [first]
    assert (ended.started_at, ended.ended_at, ended.crashes) == (11.0, 13.0, 1)


def test_the_newest_attempts_are_kept() -> None:
    tasks = registry(plain)
    job = made(tasks, "plain", 1)
    old = [AttemptRecord(n, 0.0, 1.0) for n in range(1, ATTEMPTS_KEPT_MAX + 1)]
    job.attempt = ATTEMPTS_KEPT_MAX + 1
    job.activity = Activity(attempts=old)
    again = Transition(QUEUED, 2.0, None, Failure(None, "E", "e"), attempt=job.attempt)
    activity = back(row_of(job, again), tasks).activity
    assert activity is not None
    assert [a.number for a in activity.attempts] == list(range(2, ATTEMPTS_KEPT_MAX + 2))


def test_half_a_surrogate_pair_does_not_keep_a_job_from_ending() -> None:
    tasks = registry(plain)
    job = made(tasks, "plain", 1)
    job.activity = Activity(progress=Progress(1, 2, "step \ud800", 1.0))
    failure = Failure(Reason.ERROR, "ValueError", "text \udfff")
    again = back(row_of(job, Transition(FAILED, 1.0, None, failure)), tasks)
    assert again.failure == Failure(Reason.ERROR, "ValueError", "text \\udfff")
    assert again.activity is not None
    assert again.activity.progress == Progress(1, 2, "step \\ud800", 1.0)


def loose(value: object) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("value", [object(), lambda: None, 1 << 80, "\ud800"])
def test_an_argument_without_an_encoding_is_refused(value: object) -> None:
    tasks = registry(loose)
    job = Job("id-1", tasks.find("loose"), (value,), None, "default", 2, 7, 0.0)
    with pytest.raises(InvalidArguments, match="task loose: the arguments cannot be encoded"):
        encode_payload(job, 1 << 20)


def test_a_large_payload_is_refused_with_both_sizes() -> None:
    tasks = registry(loose)
    job = made(tasks, "loose", "x" * 1000)
    size = len(encode_payload(job, 2000))
    assert len(encode_payload(job, size)) == size
    with pytest.raises(PayloadTooLarge, match=f"take {size} bytes encoded, {size - 1} are allowed"):
        encode_payload(job, size - 1)


def test_arguments_that_no_longer_fit_are_told_or_left_as_they_are() -> None:
    row = row_of(made(registry(loose), "loose", "text"))
    changed = TaskRegistry(queue="default", timeout_s=None)
    changed.add(plain, name="loose")
    with pytest.raises(InvalidArguments, match="argument `n`"):
        back(row, changed)
    assert back(row, changed, checked=False).args == ("text",)


def test_a_job_of_a_task_that_is_gone_is_parked_with_its_arguments() -> None:
    row = row_of(made(registry(loose), "loose", [1, "x"]))
    job = back(row, registry(plain))
    assert job.task.is_parked
    assert (job.task.name, job.args) == ("loose", ([1, "x"],))


@pytest.mark.parametrize("damage", [b"\xc1", b"", b"\x93\x01"])
def test_a_damaged_value_is_an_error_of_msgspec(damage: bytes) -> None:
    tasks = registry(plain)
    row = row_of(made(tasks, "plain", 1))
    row[6] = damage
    decode: Callable[[], Job] = lambda: back(row, tasks)  # noqa: E731
    with pytest.raises(msgspec.MsgspecError):
        decode()
