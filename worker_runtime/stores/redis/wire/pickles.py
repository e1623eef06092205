"""Pickles as arq's clients send them, read without running anything that they name.

A pickle is a program: it may import any name and call it. The readers here look names up in closed
tables instead of importing, so that a pickle can build plain data and nothing else. The format is
Python's own (`pickle` module, protocols 0 to 5).
"""

from __future__ import annotations

import asyncio
import builtins
import collections
import dataclasses
import datetime
import decimal
import enum
import io
import pickle
import pickletools
import re
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import msgspec


class UnsafePickle(pickle.UnpicklingError):
    """The pickle names something that is not plain data. It was not imported and not called."""


class _Constructor:
    """A callable that a pickle may reach. Without attributes, so that a pickle cannot change it."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __setattr__(self, name: str, value: object) -> None:
        raise UnsafePickle(f"a pickle must not set {name!r}")

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


def _of_items(kind: type) -> _Constructor:
    """`kind(items)` for items that are already in memory: a range would be an allocation bomb."""

    def make(*args: Any) -> Any:
        if args and type(args[0]) not in (list, tuple):
            raise UnsafePickle(f"{kind.__name__} takes a list of items")
        return kind(*args)

    return _Constructor(make)


def _itself(kind: type) -> _Constructor:
    """`kind(value)` for a value that is one already: how an Enum member's value is written."""

    def make(value: Any) -> Any:
        if type(value) is not kind:
            raise UnsafePickle(f"{kind.__name__} takes a {kind.__name__}")
        return value

    return _Constructor(make)


def _bytearray(*args: Any) -> bytearray:
    if args and not isinstance(args[0], bytes | str):  # a number would be an allocation bomb
        raise UnsafePickle("bytearray takes bytes")
    return bytearray(*args)


def _bytes(*args: Any) -> bytes:
    """How protocol 2 writes empty bytes."""
    if args:
        raise UnsafePickle("bytes() takes nothing")
    return b""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocols 0 to 2 call to build bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickle("only latin1 text stands for bytes")
    return text.encode("latin1")


def _getattr(owner: Any, name: Any) -> Any:
    """What a pickled ZoneInfo calls, and nothing but that."""
    if owner is zoneinfo.ZoneInfo and name == "_unpickle":
        return _Constructor(lambda key, _from_cache: zoneinfo.ZoneInfo(key))
    raise UnsafePickle("getattr is refused")


_PLAIN: dict[tuple[str, str], Any] = {
    ("builtins", "dict"): _of_items(dict),
    ("builtins", "str"): _itself(str),
    ("builtins", "int"): _itself(int),
    ("builtins", "float"): _itself(float),
    ("builtins", "set"): _of_items(set),
    ("builtins", "frozenset"): _of_items(frozenset),
    ("builtins", "bytes"): _Constructor(_bytes),
    ("builtins", "bytearray"): _Constructor(_bytearray),
    ("builtins", "complex"): _Constructor(complex),
    ("builtins", "getattr"): _Constructor(_getattr),
    ("_codecs", "encode"): _Constructor(_encode),
    ("collections", "OrderedDict"): _of_items(collections.OrderedDict),
    ("collections", "deque"): _of_items(collections.deque),
    ("datetime", "date"): datetime.date,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
    ("zoneinfo", "ZoneInfo"): zoneinfo.ZoneInfo,
}
# Protocols 0 to 2 use the module names of Python 2.
_PLAIN |= {("__builtin__", n): v for (m, n), v in list(_PLAIN.items()) if m == "builtins"}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _PLAIN.get((module, name))
        if found is None:
            raise UnsafePickle(f"{module}.{name} is not plain data")
        return found


class Foreign(Exception):
    """Stands for an object of a class that was not imported: an exception that a task of another
    process raised, or a value of its own type. The text says what it was."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

    def __setstate__(self, state: object) -> None:
        """What the class would keep is of no use without the class."""

    qualified_name = "unknown"

    def __repr__(self) -> str:
        return f"<{self.qualified_name}{self.args!r:.200}>"


def _exceptions() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {
        ("asyncio.exceptions", "CancelledError"): asyncio.CancelledError,
        ("asyncio.exceptions", "TimeoutError"): TimeoutError,
        ("concurrent.futures._base", "TimeoutError"): TimeoutError,
    }
    for name, value in vars(builtins).items():
        if isinstance(value, type) and issubclass(value, Exception):
            found["builtins", name] = value
    return found


_EXCEPTIONS = _exceptions()
_WRITTEN_TYPES: frozenset[Any] = frozenset(
    {
        *(v for v in _PLAIN.values() if isinstance(v, type)),
        *_EXCEPTIONS.values(),
        *(bytearray, complex, collections.OrderedDict, collections.deque),
        *(dict, set, frozenset, str, int, float),
    }
)


class _ResultUnpickler(_PlainUnpickler):
    """Reads results, which hold exceptions: built-in ones as themselves, others as `Foreign`."""

    def find_class(self, module: str, name: str) -> Any:
        found = _PLAIN.get((module, name)) or _EXCEPTIONS.get((module, name))
        if found is not None:
            return found
        if module in ("builtins", "__builtin__", "copyreg", "_codecs"):
            raise UnsafePickle(f"{module}.{name} is not plain data")
        return type("Foreign", (Foreign,), {"qualified_name": f"{module}.{name}"})


def loads_plain(data: bytes) -> Any:
    """The plain data in a pickle: numbers, text, bytes, containers, dates, Decimal, UUID.

    Raises UnsafePickle, naming what else is in it, or another exception where it is no pickle.
    """
    _check_memo(data)
    return _PlainUnpickler(io.BytesIO(data)).load()


def loads_result(data: bytes) -> Any:
    """`loads_plain`, with exceptions. Raises the same."""
    _check_memo(data)
    return _ResultUnpickler(io.BytesIO(data)).load()


# LONG_BINPUT with an index of 65,536 or more, or PUT with one of six digits; or text that looks so.
_LARGE_MEMO_INDEX = re.compile(rb"r(?:..[^\x00]|...[^\x00])|p[0-9]{6}", re.DOTALL)


def _check_memo(data: bytes) -> None:
    """Raises UnsafePickle for a memo index beyond the pickle's length: the unpickler would make
    room for as many entries as five bytes ask for."""
    if _LARGE_MEMO_INDEX.search(data) is None:
        return
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("LONG_BINPUT", "PUT") and int(argument or 0) > len(data):
                raise UnsafePickle(f"the memo index {argument} exceeds the pickle's length")
    except (ValueError, IndexError) as error:
        raise UnsafePickle(f"no pickle: {error}") from None


class _PlainPickler(pickle.Pickler):
    """Writes plain data only; Structs, dataclasses and Enum members as what they hold."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind in _WRITTEN_TYPES or (kind is type and value in _WRITTEN_TYPES):
            return NotImplemented
        if value in (getattr, zoneinfo.ZoneInfo._unpickle):  # type: ignore[attr-defined]
            return NotImplemented
        if isinstance(value, enum.Enum) and type(value.value) in (str, int, float):
            return type(value.value), (value.value,)
        if isinstance(value, msgspec.Struct):
            return dict, (list(msgspec.structs.asdict(value).items()),)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return dict, ([(name, getattr(value, name)) for name in names],)
        raise UnsafePickle(f"a {kind.__module__}.{kind.__qualname__} is not plain data")


def dumps_plain(data: Any) -> bytes:
    """A pickle that `loads_plain` reads, and any other reader too. Raises UnsafePickle for what is
    not plain data."""
    buffer = io.BytesIO()
    _PlainPickler(buffer, protocol=4).dump(data)
    return buffer.getvalue()


def dumps_with_foreign_error(
    data: dict[str, Any], key: str, module: str, name: str, text: str
) -> bytes:
    """A pickle of `data` in which `data[key]` is the exception `module.name(text)`.

    For readers that have the class while this process does not: the opcodes that `pickle.dumps`
    would write for it are appended (GLOBAL, BINUNICODE, TUPLE1, REDUCE, SETITEM, STOP).
    """
    head = pickle.dumps(data, protocol=4)
    assert head.endswith(b".")
    return (
        head[:-1]
        + _unicode(key)
        + f"c{module}\n{name}\n".encode("ascii")
        + _unicode(text)
        + b"\x85Rs."
    )


def _unicode(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw
