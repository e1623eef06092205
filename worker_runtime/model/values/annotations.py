"""What an annotation says about who may change a value of it once it was converted to it."""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from typing import Any

from worker_runtime.model.values.copying import ATOMS


class Hold(enum.IntEnum):
    """FIXED: nobody. OWN: who has the converted value, which holds nothing of the one before.
    SHARED: it may be that value, or hold parts of it."""

    FIXED = 0
    OWN = 1
    SHARED = 2


_COPIED_BY_CONVERSION = (
    *(list, set, dict),
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Set,
    collections.abc.MutableSet,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
)


def hold_of(hint: Any) -> Hold:
    """Who may change a value that was converted to `hint`."""
    if isinstance(hint, type) and (hint in ATOMS or issubclass(hint, enum.Enum)):
        return Hold.FIXED
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return hold_of(parts[0])
    if origin is typing.Literal:
        return Hold.FIXED
    inner = max((hold_of(part) for part in parts if part is not ...), default=Hold.SHARED)
    if origin in (typing.Union, types.UnionType, tuple, frozenset):
        return inner
    return max(inner, Hold.OWN) if origin in _COPIED_BY_CONVERSION else Hold.SHARED
