"""The restricted unpickler: plain data comes through, nothing else is imported or called."""

from __future__ import annotations

import asyncio
import collections
import datetime
import decimal
import enum
import math
import os
import pickle
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime.stores.redis.wire.pickles import (
    Foreign,
    UnsafePickle,
    dumps_plain,
    dumps_with_foreign_error,
    loads_plain,
    loads_result,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashable = st.integers() | st.text() | st.binary() | st.uuids() | st.dates()
plain_data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
        | st.lists(inner, max_size=3).map(collections.deque)
        | st.dictionaries(st.text(), inner, max_size=3).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


@given(plain_data, st.integers(min_value=2, max_value=pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_through_every_protocol(value: Any, protocol: int) -> None:
    assert loads_plain(pickle.dumps(value, protocol=protocol)) == value
    assert loads_result(pickle.dumps(value, protocol=protocol)) == value


@given(plain_data)
def test_what_we_write_everybody_reads(value: Any) -> None:
    data = dumps_plain(value)
    assert pickle.loads(data) == value
    assert loads_plain(data) == value


def test_zones_are_plain() -> None:
    moment = datetime.datetime(2026, 5, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    assert loads_plain(pickle.dumps(moment)) == moment
    assert loads_plain(dumps_plain(moment)) == moment


class _Calls:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = (function, args)

    def __reduce__(self) -> Any:
        return self._call


def _owned(path: Path) -> None:
    path.write_text("owned")


@pytest.mark.parametrize("load", [loads_plain, loads_result])
def test_nothing_is_executed(load: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    attacks = [
        _Calls(os.system, f"touch {mark}"),
        _Calls(eval, f"open({str(mark)!r}, 'w')"),
        _Calls(exec, f"open({str(mark)!r}, 'w')"),
        _Calls(getattr, str, "format"),
        _Calls(__import__, "os"),
        _Calls(open, str(mark), "w"),
        _Calls(_owned, mark),
    ]
    for attack in attacks:
        data = pickle.dumps([attack])
        try:
            loaded = load(data)
        except pickle.UnpicklingError:
            pass
        else:  # a result shows what it does not import as a stand-in
            assert load is loads_result
            assert isinstance(loaded[0], Foreign)
        assert not mark.exists()


@pytest.mark.parametrize(
    "bomb",
    [
        _Calls(bytearray, 1 << 40),
        _Calls(frozenset, range(1 << 40)),
        _Calls(set, range(1 << 40)),
        _Calls(collections.deque, range(1 << 40)),
    ],
)
def test_a_short_pickle_cannot_ask_for_much_memory(bomb: Any) -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads_plain(pickle.dumps(bomb))


@pytest.mark.parametrize(
    "bomb", [b"Nr\x00\x00\x00\x10.", b"Nr\xff\xff\xff\xff.", b"Np999999999\n."]
)
def test_a_memo_index_is_no_allocation(bomb: bytes) -> None:
    with pytest.raises(UnsafePickle, match="memo index"):
        loads_plain(bomb)
    with pytest.raises(UnsafePickle, match="memo index"):
        loads_result(bomb)


def test_a_pickle_cannot_change_what_later_pickles_reach() -> None:
    # GLOBAL builtins.set; BUILD with the slot state {"_make": None} would replace the constructor.
    poison = b"cbuiltins\nset\n(N}X\x05\x00\x00\x00_makeNstb."
    with pytest.raises((UnsafePickle, AttributeError, TypeError)):
        loads_plain(poison)
    assert loads_plain(pickle.dumps({1, 2}, protocol=2)) == {1, 2}


@given(st.binary(max_size=200))
def test_bytes_that_are_no_pickle_only_raise(data: bytes) -> None:
    try:
        loads_plain(data)
    except Exception:  # a length of eight bytes may be refused as MemoryError, before any memory
        return


class _OwnError(Exception):
    pass


def test_results_hold_exceptions() -> None:
    assert isinstance(loads_result(pickle.dumps(ValueError("x"))), ValueError)
    assert isinstance(loads_result(pickle.dumps(asyncio.CancelledError())), asyncio.CancelledError)
    own = loads_result(pickle.dumps(_OwnError("their own", 3)))
    assert isinstance(own, Foreign)
    assert own.args == ("their own", 3)
    assert "_OwnError" in repr(own)
    with pytest.raises(UnsafePickle, match="ValueError is not plain data"):
        loads_plain(pickle.dumps(ValueError("x")))


def test_an_exception_that_this_process_lacks_can_be_written() -> None:
    data = dumps_with_foreign_error({"a": 1, "r": None}, "r", "builtins", "KeyError", "gone é")
    loaded = pickle.loads(data)
    assert loaded["a"] == 1
    assert repr(loaded["r"]) == repr(KeyError("gone é"))
    foreign = dumps_with_foreign_error({}, "r", "not_installed.here", "Oops", "why")
    assert repr(loads_result(foreign)["r"]) == "<not_installed.here.Oops('why',)>"


class _Colour(enum.StrEnum):
    RED = "red"


class _Point(msgspec.Struct):
    x: int
    y: list[int]


def test_our_pickler_writes_structs_and_enums_as_what_they_hold() -> None:
    data = dumps_plain({"colour": _Colour.RED, "point": _Point(1, [2])})
    assert pickle.loads(data) == {"colour": "red", "point": {"x": 1, "y": [2]}}
    assert loads_plain(data) == pickle.loads(data)


@pytest.mark.parametrize("value", [object(), os.system, _OwnError, math, Path("x"), lambda: None])
def test_our_pickler_refuses_what_is_not_plain(value: Any) -> None:
    with pytest.raises(UnsafePickle, match="is not plain data"):
        dumps_plain([value])


def test_uuid_and_decimal_keep_their_type() -> None:
    value = (uuid.UUID(int=7), decimal.Decimal("1.50"))
    assert loads_plain(pickle.dumps(value)) == value
