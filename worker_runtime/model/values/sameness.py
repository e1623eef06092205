"""Whether two values are the same to whoever reads them, wherever they have been kept."""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal, or come to the same in a store: a tuple and a list, a date and
    its text, a set and a list of its members. So the answer does not depend on whether one of them
    has been in a file since. Never raises; where there is no answer it is False."""
    try:
        return _is_same(one, other)
    except Exception:  # a value's own comparison, or a value that has no encoding
        return False


def _is_same(one: Any, other: Any) -> bool:
    if one is other or (type(one) is type(other) and bool(one == other)):
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, _SETS) or isinstance(other, _SETS):
        return (
            isinstance(one, _MEMBERS) and isinstance(other, _MEMBERS) and _bag(one) == _bag(other)
        )
    if isinstance(one, _SEQUENCES) and isinstance(other, _SEQUENCES):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if one == other:
        return True
    first, second = _encode(one), _encode(other)
    return first == second or bool(_decode(first) == _decode(second))


_SETS = (set, frozenset)
_SEQUENCES = (list, tuple)
_MEMBERS = (*_SETS, *_SEQUENCES)


def _bag(members: Any) -> list[bytes]:
    """Members in an order that does not depend on the process."""
    return sorted(map(_encode, members))
