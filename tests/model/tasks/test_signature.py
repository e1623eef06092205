"""Arguments are checked against a task's annotations, and reach the task as annotated."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime import ConfigurationError, InvalidArguments, JobContext
from worker_runtime.model.tasks.signature import Signature

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheTypeChecker

    from worker_runtime import JobContext as AnotherName


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    ONE = 1


class Shape(enum.Enum):
    POINT = (0, 0)  # msgspec has no encoding for it


@dataclass
class Point:
    x: int
    colour: Colour = Colour.RED


class Order(msgspec.Struct):
    items: list[int]
    level: Level = Level.ONE


class Plain:
    """A class that msgspec knows nothing about."""


def signature(fn: Callable[..., Any]) -> Signature:
    return Signature(fn, JobContext)


def called(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `fn` returns when called with what the signature bound, context and all."""
    found = signature(fn)
    bound, named = found.bind(args, kwargs)
    bound, given = found.with_context("the context", bound, named)
    return fn(*bound, **given)


def refused(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        signature(fn).bind(args, kwargs)
    return str(caught.value)


def everything(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **extra: int) -> Any:
    return (a, b, c, rest, d, e, extra)


def test_each_kind_of_parameter_reaches_its_place() -> None:
    assert called(everything, 1, 2, d=4) == (1, 2, 3, (), 4, 5, {})
    assert called(everything, 1, 2, 30, 31, 32, d=4, z=9) == (1, 2, 30, (31, 32), 4, 5, {"z": 9})
    assert called(everything, 1, b=2, d=4, e=50) == (1, 2, 3, (), 4, 50, {})
    assert called(everything, 1, b=2, d=4, a=7) == (1, 2, 3, (), 4, 5, {"a": 7})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing argument `a`"),
        ((1,), {"d": 4}, "missing argument `b`"),
        ((1, 2), {}, "missing argument `d`"),
        ((1, 2), {"d": 4, "b": 5}, "argument `b` is given twice"),
        ((1, "x"), {"d": 4}, "argument `b`: expected `int`, got `str`"),
        ((1, 2, 3, "x"), {"d": 4}, "argument `rest[0]`: expected `int`, got `str`"),
        ((1, 2), {"d": 4, "z": "x"}, "argument `extra[...]`: expected `int`, got `str`"),
    ],
)
def test_what_does_not_fit_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    assert refused(everything, *args, **kwargs) == message


def two(number: int, text: str = "x") -> Any:
    return number, text


def test_a_call_without_keywords_is_checked_too() -> None:
    assert called(two, 1) == (1, "x")
    assert refused(two, "1") == "argument `number`: expected `int`, got `str`"
    assert refused(two, 1, 2) == "argument `text`: expected `str`, got `int`"
    assert refused(two, 1, "x", 3) == "takes at most 2 positional arguments, 3 given"
    assert refused(two, 1, other=2) == "unknown argument `other`; arguments by name: number, text"
    assert refused(lambda: None, x=1) == "unknown argument `x`; arguments by name: none"
    assert refused(two, True) == "argument `number`: expected `int`, got `bool`"


def test_enum_members_arrive_as_members_and_values_become_them() -> None:
    def paint(colour: Colour, level: Level = Level.ONE, payload: Any = None) -> Any:
        return colour, level, payload

    assert called(paint, Colour.RED) == (Colour.RED, Level.ONE, None)
    assert called(paint, "green", 1) == (Colour.GREEN, Level.ONE, None)
    untyped = [Colour.RED]
    assert called(paint, Colour.RED, payload=untyped)[2] == [Colour.RED]
    assert "argument `colour`: invalid enum value 'blue'" in refused(paint, "blue")
    assert refused(paint, Colour.RED, "x") == "argument `level`: expected `int`, got `str`"


def test_an_enum_that_has_no_encoding_is_passed_through() -> None:
    def move(shape: Shape) -> Shape:
        return shape

    assert called(move, Shape.POINT) is Shape.POINT


def test_dataclasses_and_structs_are_taken_as_themselves_or_as_mappings() -> None:
    def draw(point: Point, order: Order | None = None) -> Any:
        return point, order

    point = Point(1, Colour.GREEN)
    assert called(draw, point) == (point, None)
    assert called(draw, {"x": 1}, order={"items": [1]}) == (Point(1), Order([1]))
    assert refused(draw, {"x": "1"}) == "argument `point.x`: expected `int`, got `str`"
    assert "missing required field `x`" in refused(draw, {})


def test_limits_in_annotations_hold() -> None:
    def sized(count: Annotated[int, msgspec.Meta(ge=1)], kind: Literal["a", "b"] = "a") -> Any:
        return count, kind

    assert called(sized, 1, "b") == (1, "b")
    assert refused(sized, 0) == "argument `count`: expected `int` >= 1"
    assert "argument `kind`: invalid enum value 'c'" in refused(sized, 1, "c")


def test_containers_are_copied_so_that_the_caller_keeps_its_own() -> None:
    def take(items: list[list[int]]) -> Any:
        return items

    mine = [[1]]
    bound, _ = signature(take).bind((mine,), None)
    mine[0].append(2)
    assert bound == ([[1]],)


def test_text_stands_for_dates_and_bytes_only_from_a_wire() -> None:
    def at(when: datetime, key: UUID, data: bytes = b"") -> Any:
        return when, key, data

    moment, key = datetime(2026, 1, 2, tzinfo=UTC), UUID(int=7)
    assert called(at, moment, key, b"x") == (moment, key, b"x")
    assert "argument `when`" in refused(at, "2026-01-02T00:00:00Z", key)
    bound, _ = signature(at).bind(("2026-01-02T00:00:00Z", str(key), "eA=="), None, wire=True)
    assert bound == (moment, key, b"x")


def test_annotations_that_cannot_be_checked_accept_anything() -> None:
    def loose(  # type: ignore[no-untyped-def]
        money: OnlyForTheTypeChecker,
        broken: NoSuchName,  # type: ignore[name-defined]  # noqa: F821
        plain: Plain,
        unannotated,
        checked: int,
    ) -> Any:
        return money, broken, plain, unannotated, checked

    plain = Plain()
    assert called(loose, 1, 2, plain, 4, 5) == (1, 2, plain, 4, 5)
    assert refused(loose, 1, 2, plain, 4, "5") == "argument `checked`: expected `int`, got `str`"
    assert refused(loose, 1, 2, "x", 4, 5) == "argument `plain`: expected `Plain`, got `str`"


def test_the_context_is_found_by_its_annotation_wherever_it_stands() -> None:
    def last(a: int, context: JobContext) -> Any:
        return a, context

    def only_by_name(a: int = 1, *, context: JobContext) -> Any:
        return a, context

    def under_type_checking(a: int, job: AnotherName) -> Any:
        return a, job

    def before_the_rest(a: int, job: JobContext, *rest: int) -> Any:
        return a, job, rest

    assert called(last, 1) == (1, "the context")
    assert called(last, a=1) == (1, "the context")
    assert called(only_by_name) == (1, "the context")
    assert called(only_by_name, 2) == (2, "the context")
    assert called(before_the_rest, 1, 2, 3) == (1, "the context", (2, 3))
    # A name that exists for the type checker alone says nothing at run time.
    assert signature(under_type_checking).context_name is None


def test_the_context_is_found_by_name_only_in_the_first_place() -> None:
    def first(ctx, a: int) -> Any:  # type: ignore[no-untyped-def]
        return ctx, a

    def second(a: int, ctx: int) -> Any:
        return a, ctx

    assert called(first, 1) == ("the context", 1)
    assert called(second, 1, 2) == (1, 2)


def test_nobody_passes_the_context() -> None:
    def task(ctx: JobContext, **extra: int) -> Any:
        return ctx, extra

    assert called(task, a=1) == ("the context", {"a": 1})
    assert refused(task, ctx=1) == "argument `ctx` is the context, which nobody passes"


def test_a_context_cannot_be_many() -> None:
    def odd(*contexts: JobContext) -> None:
        pass

    with pytest.raises(ConfigurationError, match=r"\*contexts cannot be the context parameter"):
        signature(odd)


def test_a_call_has_one_form_however_it_is_written() -> None:
    found = signature(everything)

    def form(*args: int, **kwargs: int) -> dict[str | int, Any]:
        return found.canonical(*found.bind(args, kwargs))

    assert form(1, 2, 3, d=4) == form(1, c=3, d=4, b=2) == {0: 1, "b": 2, "c": 3, "d": 4}
    assert form(1, 2, 3, 30, 31, d=4) == {0: 1, "b": 2, "c": 3, 3: 30, 4: 31, "d": 4}
    assert form(1, 2, d=4, a=9) == {0: 1, "b": 2, "d": 4, "a": 9}


class Service:
    def method(self, a: int, *, colour: Colour = Colour.RED) -> Any:
        return a, colour

    def __call__(self, a: int) -> int:
        return a


@pytest.mark.parametrize(
    "fn", [Service().method, functools.partial(Service.method, Service()), Service()]
)
def test_methods_partials_and_callable_objects_are_checked(fn: Callable[..., Any]) -> None:
    assert refused(fn, "1") == "argument `a`: expected `int`, got `str`"


def test_what_a_partial_fixed_can_only_be_changed_by_name() -> None:
    fixed = functools.partial(everything, 1, b=2)
    assert called(fixed, d=4) == (1, 2, 3, (), 4, 5, {})
    assert called(fixed, b=20, d=4) == (1, 20, 3, (), 4, 5, {})
    assert refused(fixed, 9, d=4) == "takes at most 0 positional arguments, 1 given"


def test_a_wrapped_function_is_checked_by_what_it_wraps() -> None:
    @functools.wraps(two)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return two(*args, **kwargs)

    assert refused(wrapper, "1") == "argument `number`: expected `int`, got `str`"


class Hostile(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        raise RuntimeError if self.x else ValueError("x must not be 0")


def test_an_argument_whose_own_check_raises_is_refused() -> None:
    def take(hostile: Hostile) -> None:
        pass

    assert refused(take, {"x": 1}) == "the arguments cannot be checked: RuntimeError"
    assert refused(take, {"x": 0}) == "argument `hostile`: x must not be 0"


def test_names_that_python_does_not_know_are_refused() -> None:
    assert refused(two, **{"number; drop": 1}).startswith("unknown argument `number; drop`")
    with pytest.raises(InvalidArguments, match="argument names must be text, not 1"):
        signature(two).bind((), {1: 2})  # type: ignore[dict-item]


@given(
    args=st.lists(st.integers(), max_size=6),
    kwargs=st.dictionaries(st.sampled_from("abcdez"), st.integers(), max_size=6),
)
def test_whatever_python_accepts_is_accepted_and_means_the_same(
    args: list[int], kwargs: dict[str, int]
) -> None:
    try:
        expected = everything(*args, **kwargs)  # type: ignore[arg-type, call-arg, unused-ignore]
    except TypeError:
        refused(everything, *args, **kwargs)
    else:
        assert called(everything, *args, **kwargs) == expected
