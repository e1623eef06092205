"""Copies of arguments and results, so that nobody changes what somebody else is to read.

What a durable store could keep is data, and is copied: lists, dicts, sets, tuples, bytearrays and
deques with what is in them, Structs, dataclasses and attrs classes that hold nothing but data. Any
other object (a lock, a connection, an instance of a plain class) is what it is, and is handed on
itself, as is a record that holds one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

ATOMS = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes),
        *(datetime, date, time, timedelta, Decimal, UUID),
    }
)
"""Types of values that nobody can change and that hold nothing. Who asks for each job looks here
before it calls `private_copy`."""

_PLAIN = (*ATOMS, Enum, bytearray, memoryview)
_CONTAINERS = (list, tuple, set, frozenset, deque)

_all_atoms = ATOMS.issuperset

Arguments = tuple[tuple[Any, ...], dict[str, Any] | None]

_Memo = dict[int, Any]
_Copier = Callable[[Any, _Memo], Any]


def private_copy(value: Any) -> Any:
    """`value` as data that only the caller has: a copy where somebody else could change it, `value`
    itself where nobody can. Never raises."""
    if type(value) in ATOMS:
        return value
    try:
        return _copied(value, {})
    except Exception:  # a class of the user's that cannot be copied, or hundreds of levels
        return value


def private_arguments(args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Arguments:
    """The arguments of one call as `private_copy` has values; what they share they share again."""
    memo: _Memo = {}
    try:
        own = tuple([each if type(each) in ATOMS else _copied(each, memo) for each in args])
        return own, kwargs and _copied(kwargs, memo)
    except Exception:  # as above: all that can be copied is
        named = kwargs and {name: private_copy(each) for name, each in kwargs.items()}
        return tuple(map(private_copy, args)), named


def _copied(value: Any, memo: _Memo) -> Any:
    kind: Any = type(value)
    if kind in ATOMS:
        return value
    place = id(value)
    if place in memo:
        return memo[place]
    if kind is dict:
        memo[place] = new = value.copy()
        if not _all_atoms(map(type, new.values())):
            for key, item in value.items():
                if type(item) not in ATOMS:
                    new[key] = _copied(item, memo)
        return new
    if kind is list:
        memo[place] = new = value.copy()
        if not _all_atoms(map(type, new)):
            new[:] = [_copied(item, memo) for item in value]
        return new
    copier = _copier_of(kind)
    return value if copier is None else copier(value, memo)


def _copied_tuple(value: tuple[Any, ...], memo: _Memo) -> tuple[Any, ...]:
    if _all_atoms(map(type, value)):
        return value
    items = [_copied(item, memo) for item in value]
    if all(map(operator.is_, items, value)):
        return value
    # A list in it may hold the tuple itself, which is copied by then.
    return memo.setdefault(id(value), tuple.__new__(type(value), items))  # type: ignore[no-any-return]


def _copied_sequence(value: Any, memo: _Memo) -> Any:
    """A deque, or a subclass of list."""
    new = memo[id(value)] = copy.copy(value)
    for place, item in enumerate(value):
        new[place] = _copied(item, memo)
    return new


def _copied_mapping(value: Any, memo: _Memo) -> Any:
    """A subclass of dict."""
    new = memo[id(value)] = copy.copy(value)
    for key, item in value.items():
        dict.__setitem__(new, key, _copied(item, memo))
    return new


def _copied_shallow(value: Any, memo: _Memo) -> Any:
    new = memo[id(value)] = copy.copy(value)
    return new


def _copied_record(value: Any, memo: _Memo) -> Any:
    kind: Any = type(value)
    names = fields_of(kind)
    before = [getattr(value, name) for name in names]
    if not all(map(_is_data, before)):
        return value
    new = memo[id(value)] = copy.copy(value)
    put = msgspec.structs.force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    for name, item in zip(names, before, strict=True):
        if type(item) not in ATOMS:
            put(new, name, _copied(item, memo))
    return new


def _is_data(value: Any) -> bool:
    """Whether there is nothing in `value` but data."""
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, dict):
        return all(map(_is_data, value.values()))
    if isinstance(value, _CONTAINERS):
        return all(map(_is_data, value))
    kind: Any = type(value)
    names = fields_of(kind)
    return bool(names) and all(_is_data(getattr(value, name)) for name in names)


_COPIERS: tuple[tuple[type, _Copier], ...] = (
    (tuple, _copied_tuple),
    (list, _copied_sequence),
    (dict, _copied_mapping),
    (deque, _copied_sequence),
    (set, _copied_shallow),
    (bytearray, _copied_shallow),
)


@functools.lru_cache(maxsize=1024)
def _copier_of(kind: Any) -> _Copier | None:
    """How values of a type are copied that is neither `dict` nor `list`; None: not at all."""
    if fields_of(kind):
        return _copied_record
    return next((copier for base, copier in _COPIERS if issubclass(kind, base)), None)


@functools.lru_cache(maxsize=1024)
def fields_of(kind: Any) -> tuple[str, ...]:
    """The fields of a record: a Struct, a dataclass or an attrs class; none for another type."""
    if issubclass(kind, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", ())
    return tuple(field.name for field in attributes)
