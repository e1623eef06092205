"""The same to whoever reads it, wherever it has been kept."""

from __future__ import annotations

import enum
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given

from tests.support.values import PLAIN
from worker_runtime.model.values.sameness import is_same


class Colour(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int


class Awkward:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


SAME: list[tuple[Any, Any]] = [
    (1, 1.0),
    ((1, 2), [1, 2]),
    ({"a": (1, (2,))}, {"a": [1, [2]]}),
    ({"x", "y", "z"}, ["z", "x", "y"]),
    ({(1, 2)}, [[1, 2]]),
    (frozenset({1}), {1}),
    (date(2024, 2, 29), "2024-02-29"),
    (UUID(int=1), str(UUID(int=1))),
    (Decimal("1.50"), "1.50"),
    (Colour.RED, "red"),
    (Point(1), {"x": 1}),
    (b"x", bytearray(b"x")),
    ([float("nan")], [float("nan")]),
]

DIFFERENT: list[tuple[Any, Any]] = [
    (1, "1"),
    (1, None),
    ([1], [1, 2]),
    ([1, 2], [2, 1]),
    ({1}, [1, 1]),
    ({1}, 1),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, [1]),
    ({1: 2}, {"1": 2}),
    ("x", b"x"),
    (Point(1), Point(2)),
    (object(), object()),
    (Awkward(), Awkward()),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=repr)
def test_the_same(one: Any, other: Any) -> None:
    assert is_same(one, other)
    assert is_same(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=lambda value: type(value).__name__)
def test_not_the_same(one: Any, other: Any) -> None:
    assert not is_same(one, other)
    assert not is_same(other, one)


def test_an_object_is_the_same_as_itself() -> None:
    awkward = Awkward()
    assert is_same(awkward, awkward)
    assert is_same([awkward], [awkward])


@given(PLAIN)
def test_what_a_file_gives_back_is_the_same(value: Any) -> None:
    try:
        stored = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    except (OverflowError, msgspec.MsgspecError, UnicodeEncodeError):
        return
    assert is_same(value, stored)
