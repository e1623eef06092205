"""About how much memory values take."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from sys import getsizeof
from typing import Any

from worker_runtime.model.values.copying import ATOMS, fields_of

# What is looked at for one answer; the rest counts as these do.
_CONTAINERS_MAX = 500
_MEMBERS_MAX = 10_000
_INNER_MAX = 50

# A dict with more keys than this is a table, whose keys are its own; else a record, whose are not.
_KEYS_SHARED_MAX = 64


def weight_bytes(*values: Any) -> int:
    """About how many bytes of memory `values` take, with all the data that they hold.

    Looks at a bounded number of values, the outer ones first: a large text is seen where it lies
    on the upper levels, and of ten thousand rows some stand for all.
    """
    try:
        return int(_weight(values))
    except Exception:  # a class of the user's that does not say what it takes
        return 0


def _weight(values: Sequence[Any]) -> float:
    total = 0.0
    left = _CONTAINERS_MAX
    level: list[tuple[Sequence[Any], float]] = [(values, 1.0)]  # members, and how often the like
    while level and left > 0:
        opened, rest = level[:left], len(level) / min(left, len(level))
        left -= len(opened)
        level = []
        for members, times in opened:
            step = -(-len(members) // _MEMBERS_MAX)
            chosen = members[::step]
            times *= rest * len(members) / len(chosen)
            total += times * sum(map(getsizeof, chosen))
            inner = [member for member in chosen if type(member) not in ATOMS]
            chosen = inner[:: max(1, -(-len(inner) // _INNER_MAX))]
            for member in chosen:
                found = _members(member)
                if found:
                    level.append((found, times * len(inner) / len(chosen)))
    return total


def _members(value: Any) -> Sequence[Any]:
    kind: Any = type(value)
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, dict):
        values = [*value.values()]
        return values if len(values) <= _KEYS_SHARED_MAX else [*values, *value]
    if isinstance(value, set | frozenset | deque):
        return [*value]
    return [getattr(value, name) for name in fields_of(kind)]
