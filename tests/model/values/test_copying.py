"""Copies that share nothing which could change, and hand on what is no data."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import enum
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given

from tests.support.values import PLAIN
from worker_runtime.model.values.copying import private_arguments, private_copy


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    one: Any
    other: Any


class Line(msgspec.Struct, frozen=True):
    notes: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    lines: list[Line]
    day: date = date(2024, 2, 29)


class Shelf(list[Any]):
    """A list with something of its own."""

    label = ""


class Attributes:
    """What attrs makes of a class, as far as a copy is concerned."""

    class _Field:
        name = "items"

    __attrs_attrs__ = (_Field,)

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attributes) and other.items == self.items


def containers_in(value: Any) -> list[Any]:
    """All that could be changed in `value`, itself included."""
    if isinstance(value, dict):
        inner: list[Any] = list(value.values())
    elif isinstance(value, list | tuple | deque):
        inner = list(value)
    elif isinstance(value, Line):
        inner = [value.notes]
    elif isinstance(value, Order):
        inner = [value.lines]
    elif isinstance(value, Attributes):
        inner = [value.items]
    elif isinstance(value, set | bytearray):
        inner = []
    else:
        return []
    found = [] if isinstance(value, tuple) else [value]
    return found + [each for item in inner for each in containers_in(item)]


VALUES = [
    [1, [2, {"a": [3]}]],
    {"a": {"b": [1]}, "c": ({"d": 1}, [2])},
    (1, [2]),
    {1, 2},
    bytearray(b"x"),
    deque([[1], 2], maxlen=3),
    OrderedDict(b=[1], a=[2]),
    defaultdict(list, a=[1]),
    Counter("aab"),
    Pair(1, [2]),
    Shelf([1, [2]]),
    Line(["x"]),
    Order([Line(["x"]), Line([])]),
    [Attributes([1])],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_data_is_copied_with_all_that_is_in_it(value: Any) -> None:
    own = private_copy(value)
    assert own == value
    assert type(own) is type(value)
    before = {id(each) for each in containers_in(value)}
    assert before.isdisjoint(id(each) for each in containers_in(own))
    assert len(before) == len(containers_in(own))


def test_what_a_container_is_besides_stays() -> None:
    shelf = Shelf([[1]])
    shelf.label = "top"
    assert private_copy(shelf).label == "top"
    assert private_copy(deque([[1]], maxlen=3)).maxlen == 3
    own = private_copy(defaultdict(list, a=[1]))
    assert own["new"] == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        2.5,
        "text",
        b"x",
        date(2024, 2, 29),
        (1, ("a", None)),
        frozenset({1}),
        Colour.RED,
    ],
    ids=repr,
)
def test_what_nobody_can_change_is_not_copied(value: Any) -> None:
    assert private_copy(value) is value


def test_what_is_no_data_is_handed_on_itself() -> None:
    class Plain:
        pass

    @dataclasses.dataclass
    class Deps:
        lock: Any
        counts: dict[str, int]

    for value in (Plain(), threading.Lock(), asyncio.Event, print, Deps(threading.Lock(), {})):
        own = private_copy([value])
        assert own[0] is value
    assert private_copy(Deps(Colour.RED, {"a": 1})).counts == {"a": 1}


def test_what_was_shared_is_shared_again() -> None:
    inner = [1]
    (one, other), named = private_arguments(([inner], (inner, 2)), {"inner": inner})
    assert named is not None
    assert one[0] is other[0] is named["inner"]
    assert one[0] is not inner


def test_circles_are_copied() -> None:
    ring: list[Any] = [1]
    ring.append(({"ring": ring},))
    own = private_copy(ring)
    assert own is not ring
    assert own[1][0]["ring"] is own


def test_what_cannot_be_copied_stays_as_it_is() -> None:
    class Stubborn(list[int]):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("no copies")

    stubborn = Stubborn([1])
    assert private_copy(stubborn) is stubborn
    given = [1]
    args, named = private_arguments((stubborn,), {"a": given})
    assert args[0] is stubborn
    assert named is not None
    assert named["a"] is not given
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert private_copy(deep) is deep


@given(PLAIN)
def test_a_copy_is_what_deepcopy_makes(value: Any) -> None:
    own = private_copy(value)
    assert own == copy.deepcopy(value)
    before = {id(each) for each in containers_in(value)}
    assert before.isdisjoint(id(each) for each in containers_in(own))
