"""What was accepted is what runs, is kept and is compared: whatever a task or a caller has done to
its own objects since, on every store and executor, and at any age of the process."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from click.testing import CliRunner

from tests.whole.contract import accepted_tasks
from tests.whole.contract.stores.places import Place
from worker_runtime import (
    JobConflict,
    JobContext,
    Retry,
    RunAgain,
    Runtime,
    Settings,
    State,
    call,
    step,
    task,
)
from worker_runtime.cli.commands import main
from worker_runtime.model.tasks.policy import RunIn
from worker_runtime.web import build_app

QUICK = Retry(max_attempts=2, delay_s=0.001, jitter=0)


class Whole(msgspec.Struct):
    number: int
    comment: str


class Less(msgspec.Struct):
    number: int


class Line(msgspec.Struct):
    sku: str
    notes: list[str] = []


@dataclasses.dataclass
class Order:
    lines: list[Line]
    tags: set[str] = dataclasses.field(default_factory=set)


class Spoiling:
    """Tasks that write down what they were given, spoil it, and fail until they are mended."""

    def __init__(self, fails: int = 10**6) -> None:
        self.given: list[Any] = []
        self.fails = fails

    def take(self, value: Any, spoil: Callable[[], None]) -> Any:
        shown = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
        self.given.append(shown)
        spoil()
        if len(self.given) <= self.fails:
            raise ConnectionError("mail server down")
        return shown

    def tasks(self, retry: Retry | None = None) -> list[Callable[..., Any]]:
        @task(retry=retry)
        async def typed(items: list[int]) -> Any:
            return self.take(items, items.clear)

        @task(retry=retry)
        async def untyped(value: Any) -> Any:
            def spoil() -> None:
                value["lines"][0]["n"] = 99
                value["lines"].append("more")
                value.clear()

            return self.take(value, spoil)

        @task(retry=retry)
        async def with_context(ctx: JobContext, *, items: list[int]) -> Any:
            return self.take(items, items.clear)

        @task(retry=retry)
        def threaded(items: list[int], **more: Any) -> Any:
            def spoil() -> None:
                items.clear()
                more["to"].pop()

            return self.take([items, more], spoil)

        @task(retry=retry)
        async def record(order: Order) -> Any:
            def spoil() -> None:
                order.lines[0].notes.append("seen")
                order.lines.clear()
                order.tags.add("done")

            return self.take(order, spoil)

        return [typed, untyped, with_context, threaded, record]


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "typed": (([1, 2, 3],), {}, [1, 2, 3]),
    "untyped": (({"lines": [{"n": 1}]},), {}, {"lines": [{"n": 1}]}),
    "with_context": ((), {"items": [1, 2]}, [1, 2]),
    "threaded": (([1],), {"to": ["a", "b"]}, [[1], {"to": ["a", "b"]}]),
    "record": (
        (Order([Line("a", ["x"])], {"new"}),),
        {},
        {"lines": [{"sku": "a", "notes": ["x"]}], "tags": ["new"]},
    ),
}


# A retry by hand (A4)


@pytest.mark.parametrize("name", CALLS)
async def test_a4_a_retry_by_hand_gets_the_arguments_as_accepted(store: Place, name: str) -> None:
    spoiling = Spoiling()
    args, kwargs, expected = CALLS[name]
    async with store.runtime(spoiling.tasks()) as runtime:
        job = await runtime.enqueue(name, *args, **kwargs)
        assert await job.wait(timeout_s=20) is State.FAILED
        spoiling.fails = 1
        again = await runtime.retry(job.id)
        assert await again.result(timeout_s=20) == expected
    assert spoiling.given == [expected, expected]


@pytest.mark.parametrize("name", CALLS)
async def test_a4_and_so_does_one_of_the_next_life(durable: Place, name: str) -> None:
    spoiling = Spoiling()
    args, kwargs, expected = CALLS[name]
    async with durable.runtime(spoiling.tasks()) as runtime:
        job = await runtime.options(job_id="p").enqueue(name, *args, **kwargs)
        await job.wait(timeout_s=20)
        await (await runtime.retry("p")).wait(timeout_s=20)
    async with durable.runtime(spoiling.tasks()) as runtime:
        await (await runtime.retry("p")).wait(timeout_s=20)
    spoiling.fails = len(spoiling.given)
    async with durable.runtime(spoiling.tasks()) as runtime:
        assert await (await runtime.retry("p")).result(timeout_s=20) == expected
    assert spoiling.given == [expected] * 4


async def test_a4_a_retry_keeps_what_the_task_of_the_day_does_not_take(durable: Place) -> None:
    """A release whose annotation knows less must not take the rest away from the next one."""

    @task(name="send")
    async def first(order: Whole) -> None:
        raise ConnectionError

    @task(name="send")
    async def second(order: Less) -> None:
        raise ConnectionError

    async with durable.runtime([first]) as runtime:
        job = await runtime.options(job_id="p").enqueue(first, Whole(1, "in the morning"))
        await job.wait(timeout_s=20)
    async with durable.runtime([second]) as runtime:
        await (await runtime.retry("p")).wait(timeout_s=20)
        await (await runtime.retry("p")).wait(timeout_s=20)

    @task(name="send")
    async def third(order: Whole) -> str:
        return order.comment

    async with durable.runtime([third]) as runtime:
        again = await runtime.retry("p")
        assert await again.result(timeout_s=20) == "in the morning"


async def test_a4_the_command_line_runs_the_call_as_accepted(tmp_path: Path) -> None:
    spoiling = Spoiling()
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with Runtime(spoiling.tasks(), store=url, settings=Settings()) as runtime:
        job = await runtime.options(job_id="p").enqueue("typed", [1, 2, 3])
        await job.wait(timeout_s=20)
    ran = await asyncio.to_thread(CliRunner().invoke, main, ["jobs", "retry", "p", "--store", url])
    assert ran.exit_code == 0, ran.output
    spoiling.fails = 1
    async with Runtime(spoiling.tasks(), store=url, settings=Settings()) as runtime:
        assert await (await runtime.find("p")).result(timeout_s=20) == [1, 2, 3]


# Attempts (A8)


@pytest.mark.parametrize("name", CALLS)
async def test_a8_every_attempt_gets_the_arguments_as_accepted(store: Place, name: str) -> None:
    spoiling = Spoiling(fails=1)
    args, kwargs, expected = CALLS[name]
    async with store.runtime(spoiling.tasks(QUICK)) as runtime:
        job = await runtime.enqueue(name, *args, **kwargs)
        assert await job.result(timeout_s=20) == expected
    assert spoiling.given == [expected, expected]


@pytest.mark.parametrize("run_in", ["thread", "process"])
async def test_a8_wherever_they_run(store: Place, run_in: RunIn) -> None:
    empties = task(name="empties", run_in=run_in, retry=QUICK)(accepted_tasks.empties)
    async with store.runtime([empties], processes=1) as runtime:
        job = await runtime.enqueue(empties, [1, 2, 3])
        await job.wait(timeout_s=60)
        seen = await runtime.inspect(job.id)
    assert seen.attempt == 2
    assert {attempt.error for attempt in seen.attempts} == {"[1, 2, 3]"}  # Redis has the last one


async def test_a8_a_run_that_was_asked_for_gets_them_too(store: Place) -> None:
    given: list[list[int]] = []

    @task
    async def postponed(items: list[int]) -> None:
        given.append([*items])
        items.clear()
        if len(given) < 3:
            raise RunAgain(0.0)

    async with store.runtime([postponed]) as runtime:
        await (await runtime.enqueue(postponed, [1, 2])).result(timeout_s=20)
    assert given == [[1, 2]] * 3


async def test_a8_a_run_after_an_interruption_gets_them_too(durable: Place) -> None:
    given: list[list[int]] = []
    gate = asyncio.Event()

    @task
    async def slow(items: list[int]) -> None:
        given.append([*items])
        items.clear()
        gate.set()
        if len(given) < 2:
            await asyncio.Event().wait()

    async with durable.runtime([slow]) as runtime:
        await runtime.options(job_id="p").enqueue(slow, [1, 2])
        await gate.wait()
        await runtime.stop(0.0)
    async with durable.runtime([slow]) as runtime:
        await (await runtime.find("p")).result(timeout_s=20)
    assert given == [[1, 2]] * 2


@pytest.mark.parametrize("name", CALLS)
async def test_a8_a_call_is_accepted_as_it_was_made(store: Place, name: str) -> None:
    """What its caller does afterwards to objects of its own changes nothing."""
    spoiling = Spoiling(fails=0)
    args, kwargs, expected = CALLS[name]
    args, kwargs = _fresh(name)
    async with store.runtime(spoiling.tasks()) as runtime:
        runtime.pause("default")
        one = await runtime.enqueue(name, *args, **kwargs)
        [other] = await runtime.enqueue_many([call(name, *args, **kwargs)])
        _spoil(args, kwargs)
        runtime.resume("default")
        for job in (one, other):
            assert await job.result(timeout_s=20) == expected


def _fresh(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs, _ = CALLS[name]
    if name == "record":
        return (Order([Line("a", ["x"])], {"new"}),), {}
    made = json.loads(json.dumps([args, kwargs]))
    return tuple(made[0]), made[1]


def _spoil(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Order):
            value.lines[0].notes.clear()
            value.tags.clear()
        elif isinstance(value, dict):
            value["lines"][0]["n"] = 2
        else:
            value.clear()


async def test_a8_what_is_no_data_is_handed_on_itself() -> None:
    """An event, a connection, an object of a plain class: nobody can say what a copy of it is."""
    event = asyncio.Event()
    seen: list[Any] = []

    class Service:
        def __init__(self) -> None:
            self.calls = [1]

    @dataclasses.dataclass
    class Deps:
        service: Service
        counts: dict[str, int]

    service = Service()
    deps = Deps(service, {})

    @task
    async def use(event: Any, services: Any, deps: Deps) -> None:
        event.set()
        seen.extend([services[0], deps])

    async with Runtime([use], store="memory://", settings=Settings()) as runtime:
        await (await runtime.enqueue(use, event, [service], deps)).result(timeout_s=20)
    assert event.is_set()
    assert seen[0] is service
    assert seen[1] is deps


# The same call under the same id (A5)


@pytest.mark.parametrize("name", CALLS)
async def test_a5_the_same_call_is_known_after_the_task_changed_its_own(
    store: Place, name: str
) -> None:
    spoiling = Spoiling(fails=0)
    async with store.runtime(spoiling.tasks()) as runtime:
        named = runtime.options(job_id="order:7")
        args, kwargs = _fresh(name)
        job = await named.enqueue(name, *args, **kwargs)
        await job.result(timeout_s=20)
        args, kwargs = _fresh(name)
        again = await named.enqueue(name, *args, **kwargs)
        assert (again.id, again.is_new) == (job.id, False)
        args, kwargs = _fresh(name)
        _spoil(args, kwargs)
        with pytest.raises(JobConflict):
            await named.enqueue(name, *args, **kwargs)
    assert len(spoiling.given) == 1


class Colour(enum.Enum):
    RED = "red"


UNTYPED: dict[str, Any] = {
    "tuple": (1, (2, 3)),
    "set": {"a", "b", "c", "d"},
    "date": date(2024, 2, 29),
    "enum": Colour.RED,
    "struct": Line("a"),
    "bytes": bytearray(b"abc"),
    "nan": [float("nan")],
    "nested": {"a": [(1, {"x", "y"}), Line("b")]},
}


@pytest.mark.parametrize("kind", UNTYPED)
async def test_a5_and_whatever_the_age_of_the_process(store: Place, kind: str) -> None:
    """What nobody has annotated comes back from a file as MessagePack has it."""

    @task
    async def untyped(value: Any) -> None: ...

    value = UNTYPED[kind]
    async with store.runtime([untyped]) as runtime:
        named = runtime.options(job_id="a")
        await (await named.enqueue(untyped, value)).result(timeout_s=20)
        assert not (await named.enqueue(untyped, value)).is_new
        stored = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
        assert not (await named.enqueue(untyped, stored)).is_new
        with pytest.raises(JobConflict):
            await named.enqueue(untyped, [value, 1])
    if not store.kind.outlives:
        return
    async with store.runtime([untyped]) as runtime:
        named = runtime.options(job_id="a")
        assert not (await named.enqueue(untyped, value)).is_new
        assert not (await named.enqueue(untyped, stored)).is_new
        with pytest.raises(JobConflict):
            await named.enqueue(untyped, [value, 1])


async def test_a5_the_same_over_http(store: Place) -> None:
    @task
    async def settle(order: dict[str, Any], day: date, pair: tuple[int, int]) -> int:
        order.setdefault("currency", "EUR")
        return 1

    async with store.runtime([settle]) as runtime:
        body = {"id": "order:7", "task": "settle", "args": [{"id": 7}, "2024-02-29", [1, 2]]}
        async with _served(runtime) as http:
            for _ in range(2):
                async with http.post("/v1/jobs?wait_s=20", json=body) as answer:
                    assert answer.status in (200, 202), await answer.text()
            async with http.post("/v1/jobs", json={**body, "args": [{"id": 8}]}) as answer:
                assert answer.status == 422
            other = {**body, "args": [{"id": 8}, "2024-02-29", [1, 2]]}
            async with http.post("/v1/jobs", json=other) as answer:
                assert answer.status == 409
        named = runtime.options(job_id="order:7")
        again = await named.enqueue(settle, {"id": 7}, date(2024, 2, 29), (1, 2))
        assert not again.is_new


@asynccontextmanager
async def _served(runtime: Runtime) -> AsyncIterator[ClientSession]:
    runner = web.AppRunner(build_app(runtime, runtime.settings))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with ClientSession(f"http://{host}:{port}") as http:
            yield http
    finally:
        await runner.cleanup()


# Results: what the next task takes, and what somebody reads again


@pytest.mark.needs("workflows")
async def test_a4_a_chain_leaves_the_result_of_its_first_task_as_it_was(store: Place) -> None:
    @task
    async def produce() -> dict[str, list[int]]:
        return {"items": [1, 2, 3]}

    @task(retry=QUICK)
    async def consume(result: dict[str, list[int]], more: list[int]) -> int:
        total = len(result["items"]) + len(more)
        result["items"].clear()
        more.clear()
        if total == 5:
            consumed.append(total)
            if len(consumed) == 1:
                raise ConnectionError
        return total

    consumed: list[int] = []
    more = [1, 2]
    async with store.runtime([produce, consume]) as runtime:
        chain = await runtime.chain(step(produce), step(consume, more))
        more.clear()
        assert await chain.result(timeout_s=20) == 5
        assert await chain.steps[0][0].result() == {"items": [1, 2, 3]}
    assert consumed == [5, 5]


@pytest.mark.needs("workflows")
async def test_a4_and_each_task_of_a_group_its_own(store: Place) -> None:
    @task
    async def produce() -> list[int]:
        return [1, 2, 3]

    @task
    async def consume(result: Any, name: str) -> int:
        result.append(0)
        await asyncio.sleep(0)
        return len(result)

    @task
    async def add(results: list[Any]) -> int:
        results.append(1)
        return sum(results)

    async with store.runtime([produce, consume, add]) as runtime:
        group = [step(consume, name) for name in "abc"]
        chain = await runtime.chain(step(produce), group, step(add))
        assert await chain.result(timeout_s=20) == 13
        assert await chain.steps[0][0].result() == [1, 2, 3]


@pytest.mark.needs("workflows")
async def test_a4_a_retry_of_a_chain_takes_the_results_as_they_were(store: Place) -> None:
    spoiling = Spoiling()

    @task
    async def produce() -> list[int]:
        return [1, 2, 3]

    async with store.runtime([produce, *spoiling.tasks()]) as runtime:
        chain = await runtime.chain(step(produce), step("typed"), workflow_id="w")
        await chain.steps[1][0].wait(timeout_s=20)
        await runtime.retry("w.1")
        await (await runtime.find("w.1")).wait(timeout_s=20)
        if not store.kind.outlives:
            spoiling.fails = 2
            assert await (await runtime.retry("w.1")).result(timeout_s=20) == [1, 2, 3]
            return
    async with store.runtime([produce, *spoiling.tasks()]) as runtime:
        spoiling.fails = 2
        assert await (await runtime.retry("w.1")).result(timeout_s=20) == [1, 2, 3]
    assert spoiling.given == [[1, 2, 3]] * 3


async def test_a4_a_result_stays_what_it_was(store: Place) -> None:
    """Neither the task, which may go on with what it has returned, nor one of its readers changes
    what the others see."""
    kept: list[dict[str, list[int]]] = []

    @task
    async def produce() -> dict[str, list[int]]:
        kept.append({"items": [1, 2]})
        return kept[0]

    async with store.runtime([produce]) as runtime:
        job = await runtime.enqueue(produce)
        first = await job.result(timeout_s=20)
        kept[0]["items"].append(3)
        first["items"].clear()
        assert await job.result() == {"items": [1, 2]}
        found = await runtime.find(job.id)
        assert await found.result(timeout_s=20) == {"items": [1, 2]}


async def test_a4_an_object_that_is_no_data_is_returned_itself() -> None:
    made: list[object] = []

    @task
    async def produce() -> object:
        made.append(object())
        return made[0]

    async with Runtime([produce], store="memory://", settings=Settings()) as runtime:
        assert await (await runtime.enqueue(produce)).result(timeout_s=20) is made[0]
