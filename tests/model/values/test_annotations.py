"""Who may change what was converted to an annotation."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
from datetime import date, datetime
from typing import Annotated, Any, Literal, Optional

import msgspec
import pytest

from worker_runtime.model.values.annotations import Hold, hold_of


class Colour(enum.Enum):
    RED = 1


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Box:
    x: int


@pytest.mark.parametrize(
    ("hint", "hold"),
    [
        (int, Hold.FIXED),
        (type(None), Hold.FIXED),
        (datetime, Hold.FIXED),
        (Colour, Hold.FIXED),
        (Literal["a", "b"], Hold.FIXED),
        (str | None, Hold.FIXED),
        (Optional[date], Hold.FIXED),  # noqa: UP045
        (Annotated[int, msgspec.Meta(ge=0)], Hold.FIXED),
        (tuple[int, ...], Hold.FIXED),
        (tuple[str, tuple[int, int]], Hold.FIXED),
        (frozenset[str], Hold.FIXED),
        (list[int], Hold.OWN),
        (dict[str, list[int]], Hold.OWN),
        (set[str] | None, Hold.OWN),
        (tuple[list[int], ...], Hold.OWN),
        (collections.abc.Sequence[int], Hold.OWN),
        (collections.abc.Mapping[str, float], Hold.OWN),
        (Annotated[list[int], msgspec.Meta(min_length=1)], Hold.OWN),
        (Any, Hold.SHARED),
        (object, Hold.SHARED),
        (list, Hold.SHARED),
        (tuple, Hold.SHARED),
        (dict[str, Any], Hold.SHARED),
        (list[Point], Hold.SHARED),
        (Point, Hold.SHARED),
        (Box, Hold.SHARED),
        (bytearray, Hold.SHARED),
        (int | dict[str, Any], Hold.SHARED),
    ],
    ids=str,
)
def test_an_annotation_says_who_may_change_its_values(hint: Any, hold: Hold) -> None:
    assert hold_of(hint) is hold


@pytest.mark.parametrize("hint", [list[int], dict[str, list[int]], set[str], list[list[int]]])
def test_what_is_owned_is_not_the_value_before(hint: Any) -> None:
    """That a conversion copies is msgspec's doing, and what `Hold.OWN` relies on."""
    given = {"dict": {"a": [1]}, "set": {"a"}, "list": [[1]] if "list[list" in str(hint) else [1]}
    value = given[hint.__origin__.__name__]
    converted = msgspec.convert(value, hint)
    assert converted == value
    assert converted is not value
    if isinstance(value, dict):
        assert converted["a"] is not value["a"]
    if value == [[1]]:
        assert converted[0] is not value[0]
