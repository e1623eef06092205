"""What can be a task, what its policy may say, when it is retried, and how it is found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime import (
    ConfigurationError,
    JobContext,
    Priority,
    Retry,
    Runtime,
    UnknownTask,
    task,
)
from worker_runtime.errors import RemoteFailure
from worker_runtime.model.registry import TaskRegistry, Tasks
from worker_runtime.model.tasks.definition import TaskDefinition, define, policy_of


async def coroutine(a: int = 1) -> int:
    return a


def function(a: int = 1) -> int:
    return a


class Service:
    async def method(self, ctx: JobContext, a: int = 1) -> int:
        return a

    async def __call__(self, a: int = 1) -> int:
        return a


def registry(tasks: Tasks = ()) -> TaskRegistry:
    found = TaskRegistry(queue="default", timeout_s=None)
    found.add_all(tasks)
    return found


# Defining


def test_a_marked_function_stays_the_function() -> None:
    marked = task(queue="mail", priority=Priority.HIGH)(function)
    try:
        assert marked is function
        assert function(2) == 2
        policy = policy_of(function)
        assert policy is not None
        assert (policy.queue, policy.priority) == ("mail", Priority.HIGH)
    finally:
        del function.__worker_runtime_task__  # type: ignore[attr-defined]
    assert policy_of(function) is None


@pytest.mark.parametrize(
    ("fn", "name", "run_in"),
    [
        (coroutine, "coroutine", "loop"),
        (function, "function", "thread"),
        (Service().method, "method", "loop"),
        (Service(), "Service", "loop"),
        (functools.partial(coroutine, 2), "coroutine", "loop"),
        (functools.partial(functools.partial(coroutine), 2), "coroutine", "loop"),
        (functools.partial(function, 2), "function", "thread"),
    ],
)
def test_what_can_be_a_task(fn: Callable[..., Any], name: str, run_in: str) -> None:
    definition = define(fn, context_type=JobContext)
    assert (definition.name, definition.run_in) == (name, run_in)


def test_a_partial_has_the_mark_of_its_own_or_of_its_function() -> None:
    @task(run_in="process", timeout_s=5)
    def marked(a: int, b: int) -> int:
        return a + b

    assert define(functools.partial(marked, 1)).timeout_s == 5
    own = task(name="own", run_in="process", timeout_s=6)(functools.partial(marked, 1))
    assert (define(own).name, define(own).timeout_s) == ("own", 6)


def test_a_static_or_class_method_is_marked_under_its_decorator_too() -> None:
    class Tools:
        @task(timeout_s=5)
        @staticmethod
        def static(a: int) -> int:
            return a

        @task(timeout_s=6)
        @classmethod
        def of_class(cls, a: int) -> int:
            return a

    assert define(Tools.static).timeout_s == 5
    assert define(Tools.of_class).timeout_s == 6


@pytest.mark.parametrize("fn", [Service().method, abs, dict])
def test_what_cannot_be_marked_is_refused_with_the_way_out(fn: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be marked as a task; mark a method where"):
        task(fn)


def test_the_policy_wins_over_the_runtimes_defaults() -> None:
    @task(name="n", queue="q", timeout_s=5, result_ttl_s=7, retry=Retry(max_attempts=9))
    async def configured() -> None: ...

    definition = define(configured, queue="other", timeout_s=60)
    assert (definition.name, definition.queue) == ("n", "q")
    assert (definition.timeout_s, definition.result_ttl_s) == (5, 7)
    assert definition.max_attempts == 9
    plain = define(coroutine, queue="other", timeout_s=60)
    assert (plain.queue, plain.timeout_s, plain.max_attempts) == ("other", 60, 1)


class Unnamed:
    __name__ = "no name"

    async def __call__(self) -> None: ...


async def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (5, "a task must be a function, not 5"),
        (generator, "task 'generator' is a generator function; a task returns once"),
        (Unnamed(), r"task name 'no name' must match .*; pass name="),
    ],
)
def test_what_cannot_be_a_task(fn: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        define(fn)


def test_what_is_given_for_a_function_is_named() -> None:
    with pytest.raises(ConfigurationError, match="first argument must be a function, not 'mail'"):
        task("mail")  # type: ignore[call-overload]
    for tasks in (coroutine, "mail", None):
        with pytest.raises(ConfigurationError, match="tasks must be a list of functions, not"):
            Runtime(tasks)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="queues must be QueueSettings, not 'mail'"):
        Runtime([coroutine], queues=["mail"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="middleware must be a function, not 3"):
        Runtime([coroutine], middleware=[3])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="lifespan must be a function, not 3"):
        Runtime([coroutine], lifespan=3)  # type: ignore[arg-type]


def test_a_task_runs_where_it_can() -> None:
    @task(run_in="loop")
    def blocking() -> None: ...

    @task(run_in="thread")
    async def waiting() -> None: ...

    with pytest.raises(ConfigurationError, match="'blocking' is a sync function and would block"):
        define(blocking)
    with pytest.raises(ConfigurationError, match="'waiting' is async: run it in the loop"):
        define(waiting)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"timeout_s": 0}, "timeout_s must be seconds above 0, not 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be seconds above 0, not nan"),
        ({"timeout_s": "5"}, "timeout_s must be seconds, not '5'"),
        ({"result_ttl_s": -1}, "result_ttl_s must be 0 or more, not -1"),
        ({"run_in": "moon"}, "run_in must be loop, thread or process, not 'moon'"),
        ({"on_crash": "cry"}, "on_crash must be retry or fail, not 'cry'"),
        ({"priority": 1}, "priority must be a Priority, not 1"),
        ({"retry": 3}, "retry must be a Retry, not 3"),
        ({"queue": "a b"}, "queue must be text that matches"),
        ({"name": "../x"}, "name must be text that matches"),
    ],
)
def test_policies_out_of_range_are_refused(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        task(**policy)(function)
    assert policy_of(function) is None


# Retry


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_attempts": 0}, "Retry.max_attempts must be at least 1, not 0"),
        ({"delay_s": -1}, "Retry.delay_s must be seconds"),
        ({"delay_s": float("nan")}, "Retry.delay_s must be seconds"),
        ({"factor": 0.5}, "Retry.factor must be at least 1"),
        ({"jitter": 1.1}, "Retry.jitter must be between 0 and 1"),
        ({"delay_max_s": -1}, "Retry.delay_max_s must be 0 or more"),
        ({"only_for": (1,)}, "Retry.only_for must be exception classes, not 1"),
        ({"only_for": ValueError}, "Retry.only_for must be a tuple"),
    ],
)
def test_retries_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Retry(**values)


def test_waits_grow_to_their_limit_however_many_attempts_there_were() -> None:
    retry = Retry(delay_s=2, factor=3, delay_max_s=100, jitter=0)
    assert [retry.wait_s(n) for n in range(1, 6)] == [2, 6, 18, 54, 100]
    assert retry.wait_s(10_000) == 100


@given(
    attempt=st.integers(1, 2000),
    delay_s=st.floats(0, 1000),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
)
def test_jitter_takes_off_at_most_its_share(
    attempt: int, delay_s: float, factor: float, jitter: float
) -> None:
    retry = Retry(delay_s=delay_s, factor=factor, jitter=jitter, delay_max_s=500)
    full_s = Retry(delay_s=delay_s, factor=factor, jitter=0, delay_max_s=500).wait_s(attempt)
    assert full_s <= 500
    assert full_s * (1 - jitter) * 0.999 <= retry.wait_s(attempt) <= full_s


def test_jitter_spreads_jobs_that_failed_together() -> None:
    retry = Retry(delay_s=100, jitter=0.5)
    waits = {retry.wait_s(1) for _ in range(200)}
    assert len(waits) > 100
    assert max(waits) - min(waits) > 20


def test_only_the_named_exceptions_are_tried_again() -> None:
    retry = Retry(only_for=(ConnectionError, KeyError))
    assert retry.admits(ConnectionResetError())
    assert retry.admits(KeyError())
    assert not retry.admits(ValueError())
    assert not Retry().admits(KeyboardInterrupt())
    assert Retry(only_for=(BaseException,)).admits(KeyboardInterrupt())


def test_a_child_processes_exception_is_known_by_the_names_of_its_classes() -> None:
    retry = Retry(only_for=(ConnectionError,))
    names = tuple(f"{k.__module__}.{k.__qualname__}" for k in ConnectionResetError.__mro__)
    assert retry.admits(RemoteFailure("X", "x", lineage=names, traceback=""))
    assert not retry.admits(RemoteFailure("X", "x", lineage=("elsewhere.X",), traceback=""))


# Finding


def test_tasks_are_found_by_function_and_by_name() -> None:
    found = registry([coroutine, function])
    assert found.find(coroutine).name == "coroutine"
    assert found.find("function").fn is function
    assert [definition.name for definition in found] == ["coroutine", "function"]
    assert "function" in found


def test_a_mapping_names_its_tasks() -> None:
    found = registry({"one": coroutine, "two": function})
    assert found.find("one").fn is coroutine


def test_a_bound_method_is_found_again() -> None:
    service = Service()
    found = registry([service.method])
    assert found.find(service.method).name == "method"
    with pytest.raises(UnknownTask):
        found.find(Service().method)


def test_an_object_without_a_hash_is_found_by_its_name() -> None:
    class Unhashable(Service):
        __hash__ = None  # type: ignore[assignment]

    service: Callable[..., Any] = Unhashable()
    found = registry([service])
    assert found.find("Unhashable").fn is service
    with pytest.raises(UnknownTask, match="is found by its name"):
        found.find(service)


def test_two_tasks_of_one_name_are_refused_and_one_twice_is_one() -> None:
    @task(name="function")
    def same_name() -> None: ...

    assert len(list(registry([coroutine, coroutine]))) == 1
    with pytest.raises(ConfigurationError, match="two tasks are called 'function'"):
        registry([function, same_name])


def test_what_is_not_registered_is_named() -> None:
    found = registry()
    with pytest.raises(UnknownTask, match="no task 'coroutine' is registered"):
        found.find(coroutine)
    with pytest.raises(UnknownTask, match=r"coroutine\(...\) is a call that was made already"):
        found.find(coroutine())  # type: ignore[arg-type]
    with pytest.raises(UnknownTask) as caught:
        found.find("x" * 1_000_000)
    assert len(str(caught.value)) < 300


def test_a_stored_jobs_task_that_is_gone_is_parked_once() -> None:
    found = registry([coroutine])
    parked = found.find_or_park("gone")
    assert parked.is_parked
    assert found.find_or_park("gone") is parked
    assert not found.find_or_park("coroutine").is_parked
    assert "gone" not in found


def test_a_definition_shows_its_name() -> None:
    definition: TaskDefinition = define(coroutine)
    assert repr(definition) == "<task coroutine in loop>"
