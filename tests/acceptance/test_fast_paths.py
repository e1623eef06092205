"""The shorter ways into the runtime accept, refuse, tell and count as the plain ones do."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.comparing import (
    assert_same,
    events_of,
    ranks_of,
    record_of,
    refusal_of,
    tallies_of,
)
from worker_runtime import (
    Priority,
    Retry,
    Runtime,
    Settings,
    WorkerRuntimeError,
    call,
    task,
)
from worker_runtime.acceptance.call import TaskRef
from worker_runtime.acceptance.intake import PLAIN, Intake
from worker_runtime.acceptance.options import WIRE, EnqueueOptions, given_options
from worker_runtime.clock.source import SYSTEM

Way = Callable[..., Any]
"""`await way(runtime, asked)`: a handle. Raises what the runtime raises."""


@task
async def add(a: int = 1, b: int = 1) -> int:
    return a + b


@task
async def nothing() -> None:
    pass


@task(priority=Priority.LOW, queue="mail", result_ttl_s=60.0)
async def mail(to: str) -> str:
    return to


@task
async def day_after(day: datetime.date) -> datetime.date:
    return day + datetime.timedelta(days=1)


@task
async def strange() -> object:
    return object()


class Asked(msgspec.Struct):
    task: TaskRef
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    options: EnqueueOptions = PLAIN


def asked(task: TaskRef, *args: Any, options: EnqueueOptions = PLAIN, **kwargs: Any) -> Asked:
    return Asked(task, args, kwargs, options)


def with_options(**given: Any) -> Asked:
    return asked("add", 1, options=given_options(SYSTEM, given).now())


def _hold_up(runtime: Runtime) -> None:
    runtime.pause("default")


def _overload(runtime: Runtime) -> None:
    sample = runtime.parts.resources.latest
    runtime.parts.overload.observe(msgspec.structs.replace(sample, memory_percent=99.0))


CASES: dict[str, list[Asked]] = {
    "no arguments": [asked("nothing"), asked("add")],
    "by function": [asked(add), asked(mail, "a"), asked(nothing)],
    "arguments": [asked("add", 1), asked("add", 1, 2), asked("add", b=2), asked("add", 1, b=2)],
    "wrong arguments": [asked("add", "x"), asked("add", 1, 2, 3), asked("add", c=1), asked(mail)],
    "none are allowed": [asked("nothing", 1), asked("nothing", a=1)],
    "no such task": [asked("no_such_task"), asked(print), asked([], 1)],  # type: ignore[arg-type]
    "many": [asked("add", n) for n in range(20)],
    "priorities": [with_options(priority=one) for one in Priority],
    "timeout": [with_options(timeout_s=9.0), with_options(timeout_s=None)],
    "retry": [with_options(retry=Retry(max_attempts=2)), with_options(retry=None)],
    "time to live": [with_options(result_ttl_s=9.0), with_options(result_ttl_s=0.0)],
    "expiry": [with_options(expires_s=900.0)],
    "label and key": [with_options(label="x"), with_options(key="k")],
    "given ids": [with_options(job_id="given-1"), with_options(job_id="given-2", label="x")],
    "wrong ids": [
        asked("add", 1, options=EnqueueOptions(job_id=one)) for one in ("", "a b", "x" * 200)
    ],
    "over a wire": [
        asked("day_after", "2024-02-28", options=WIRE),
        asked("day_after", "no day", options=WIRE),
        asked("day_after", "2024-02-28"),
        asked("strange", options=WIRE),
        asked("nothing", options=WIRE),
    ],
}


class Seen(msgspec.Struct):
    """All that can be seen of some calls: at once, on the way and in the end."""

    answers: list[Any] = []
    places: list[int] = []
    found: list[int] = []
    events: list[Any] = []
    ends: list[Any] = []
    tallies: dict[str, Any] = {}
    queues: list[Any] = []


async def shorter(runtime: Runtime, one: Asked) -> Any:
    return await runtime.doorway.enqueue_with(one.options, one.task, one.args, one.kwargs)


async def shortest(runtime: Runtime, one: Asked) -> Any:
    return await runtime.enqueue(one.task, *one.args, **one.kwargs)


async def each(runtime: Runtime, one: Asked) -> Any:
    [answer] = await runtime.doorway.enqueue_each(
        [(one.options, call(one.task, *one.args, **one.kwargs))]
    )
    if isinstance(answer, WorkerRuntimeError):
        raise answer
    return answer


async def see(
    way: Way,
    calls: list[Asked],
    prepare: Callable[[Runtime], None] | None = None,
    **settings: Any,
) -> Seen:
    seen = Seen()
    given = Settings.from_environment({}, **settings)
    async with Runtime([add, nothing, mail, day_after, strange], settings=given) as runtime:
        if prepare is not None:
            prepare(runtime)
        async with runtime.subscribe() as events:
            jobs = []
            for one in calls:
                try:
                    handle = await way(runtime, one)
                except WorkerRuntimeError as error:
                    seen.answers.append(refusal_of(error))
                except TypeError as error:
                    seen.answers.append(str(error))
                else:
                    seen.answers.append((handle.is_new, record_of(handle.job)))
                    jobs.append(handle.job)
            seen.queues = runtime.queue_infos()
            runtime.resume("default")
            await runtime.join()
            listed = await runtime.list_jobs()
        seen.found = [[job.id for job in jobs].index(info.id) for info in listed.jobs]
        seen.places = ranks_of(jobs)
        seen.events = await events_of(events, jobs)
        seen.ends = [record_of(job) for job in jobs]
        seen.tallies = tallies_of(runtime)
    return seen


@pytest.fixture
def plain_way(monkeypatch: pytest.MonkeyPatch) -> Way:
    """`shorter` where no call is simple: make, look up, check for room, admit."""

    async def plain(runtime: Runtime, one: Asked) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Intake, "is_simple", lambda _intake, _options: False)
            patch.setattr(Intake, "accept", None)
            return await shorter(runtime, one)

    return plain


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[TaskRef]:
    """The tasks of the calls that went the short way."""
    calls: list[TaskRef] = []
    accept = Intake.accept

    def counted(intake: Intake, task: TaskRef, *rest: Any) -> Any:
        calls.append(task)
        return accept(intake, task, *rest)

    monkeypatch.setattr(Intake, "accept", counted)
    return calls


@pytest.mark.parametrize("calls", CASES.values(), ids=CASES)
async def test_a_simple_call_is_accepted_as_any_other(
    calls: list[Asked], plain_way: Way, taken: list[TaskRef]
) -> None:
    short = await see(shorter, calls)
    assert len(taken) == len(calls)
    assert_same(short, await see(plain_way, calls))
    assert len(taken) == len(calls)


LOOKED_UP = {
    "the same id": [with_options(job_id="given-1")] * 2,
    "an id in use": [
        with_options(job_id="given-1"),
        asked("add", 2, options=given_options(SYSTEM, {"job_id": "given-1"}).now()),
    ],
    "another queue": [with_options(queue="mail"), with_options(queue="nowhere")],
    "later": [with_options(delay_s=0.01)],
    "unique": [with_options(unique_key="given")] * 2,
    "no id at all": [asked("add", 1, options=EnqueueOptions(job_id=5))],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("calls", LOOKED_UP.values(), ids=LOOKED_UP)
async def test_a_call_that_is_not_simple_goes_the_plain_way(
    calls: list[Asked], plain_way: Way, taken: list[TaskRef]
) -> None:
    short = await see(shorter, calls)
    assert len(taken) < len(calls)
    assert_same(short, await see(plain_way, calls))


PLAIN_CASES = {
    name: calls for name, calls in CASES.items() if all(one.options is PLAIN for one in calls)
}


@pytest.mark.parametrize("calls", PLAIN_CASES.values(), ids=PLAIN_CASES)
async def test_a_call_without_options_is_accepted_as_one_with_none(
    calls: list[Asked], plain_way: Way
) -> None:
    assert_same(await see(shortest, calls), await see(plain_way, calls))


@pytest.mark.parametrize(
    ("calls", "prepare", "settings"),
    [
        ([asked("add", n) for n in range(6)], _hold_up, {"queue_capacity": 4}),
        ([asked("add", n) for n in range(6)], None, {"queue_capacity": 2, "concurrency": 3}),
        ([with_options(priority=Priority.HIGH)] * 4, _hold_up, {"queue_capacity": 2}),
        ([asked("add"), asked("mail", "a")], Runtime.quiet, {}),
        ([asked("add", "x"), asked("no_such_task")], Runtime.quiet, {}),
        ([asked("add"), with_options(label="x")], _overload, {"max_memory_percent": 50.0}),
        ([asked("add"), asked("add")], None, {"max_memory_percent": 50.0, "concurrency": 1}),
    ],
    ids=[
        "paused and full",
        "full",
        "full for a high one",
        "closed",
        "wrong and closed",
        "overloaded",
        "limited and not overloaded",
    ],
)
async def test_a_simple_call_is_refused_as_any_other(
    calls: list[Asked],
    prepare: Callable[[Runtime], None] | None,
    settings: dict[str, Any],
    plain_way: Way,
) -> None:
    short = await see(shorter, calls, prepare, **settings)
    assert_same(short, await see(plain_way, calls, prepare, **settings))
    if all(one.options is PLAIN for one in calls):
        assert_same(short, await see(shortest, calls, prepare, **settings))


async def test_an_expiry_that_cannot_be_kept_is_refused_as_anywhere(plain_way: Way) -> None:
    def long_line(runtime: Runtime) -> None:
        """As after a job of a minute; nothing else runs."""
        definition = next(one for one in runtime.tasks if one.name == "add")
        definition.tally.durations[-1] += 1
        definition.tally.seconds += 60.0

    calls = [*[asked("add")] * 3, with_options(expires_s=0.5), with_options(expires_s=9000.0)]
    short = await see(shorter, calls, long_line, concurrency=1)
    plain = await see(plain_way, calls, long_line, concurrency=1)
    for seen in (short, plain):  # how much of it is left is said to a tenth of a second
        assert seen.answers[3]["text"].startswith("queue 'default': the job would wait ")
        del seen.answers[3]["text"]
    assert_same(short, plain)


async def test_jobs_start_in_the_order_they_were_accepted_in_by_either_way(plain_way: Way) -> None:
    ran: list[int] = []

    @task
    async def note(n: int) -> None:
        ran.append(n)

    async with Runtime([note], concurrency=1) as runtime:
        runtime.pause("default")
        for n, way in enumerate([shorter, plain_way, shortest, each, shorter, plain_way, shortest]):
            await way(runtime, asked(note, n))
        runtime.resume("default")
        await runtime.join()
    assert ran == list(range(7))


async def test_a_free_slot_is_woken_by_either_way(plain_way: Way) -> None:
    for way in (shorter, plain_way, shortest, each):
        async with Runtime([add], concurrency=2) as runtime:
            first = await way(runtime, asked("add"))
            await first.wait(timeout_s=20)
            await runtime.join()  # the slot rests
            second = await way(runtime, asked("add"))
            await second.wait(timeout_s=20)


WIRE_CALLS = {
    "accepted": [asked("nothing"), asked("add", 1), asked("day_after", "2024-02-28")],
    "refused": [asked("add", "x"), asked("no_such_task"), asked("nothing", 1)],
    "no encoding": [asked("strange")],
}


@pytest.mark.parametrize("calls", WIRE_CALLS.values(), ids=WIRE_CALLS)
async def test_one_of_a_batch_over_a_wire_is_accepted_as_any_other(
    calls: list[Asked], taken: list[TaskRef]
) -> None:
    usual = [msgspec.structs.replace(one, options=WIRE) for one in calls]
    equal = [msgspec.structs.replace(one, options=msgspec.structs.replace(WIRE)) for one in calls]
    short = await see(each, usual)
    assert len(taken) == len(calls)
    assert_same(short, await see(each, equal))
    assert len(taken) == len(calls)
