"""What a query string says, and a refusal (422) of what it cannot say."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from aiohttp import web

from worker_runtime.contracts.incoming import truth_of
from worker_runtime.web.wire.rejection import Rejection

# Decimal notation. Python's own float() also takes ` 1`, `1_0` and the digits of every script.
_NUMBER = re.compile(r"-?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE]-?[0-9]{1,3})?")


def only(request: web.Request, allowed: Collection[str]) -> None:
    """Raises Rejection for a parameter that is not in `allowed`."""
    for name in request.query:
        if name not in allowed:
            listing = ", ".join(sorted(allowed))
            detail = f"unknown parameter `{name[:64]}`; allowed: {listing}"
            raise Rejection(422, "invalid_query", detail)


def word(request: web.Request, name: str, allowed: Collection[str]) -> str | None:
    """One of the words in `allowed`; None where it is not given. Raises Rejection."""
    given = request.query.get(name)
    if given is not None and given not in allowed:
        raise _wrong(name, f"one of {', '.join(allowed)}", given)
    return given


def flag(request: web.Request, name: str, *, is_exact: bool = False) -> bool:
    """Yes or no; no where it is not given. `is_exact` takes `true` and `false` alone: what cannot
    be undone is not read out of a habit. Raises Rejection."""
    if not request.query_string or name not in request.query:
        return False
    given = request.query[name]
    meant = truth_of(given)
    if meant is None or (is_exact and given not in ("true", "false")):
        raise _wrong(name, "true or false", given)
    return meant


def number(request: web.Request, name: str, *, low: float, high: float, default: float) -> float:
    """A decimal number from `low` to `high`. Raises Rejection."""
    if not request.query_string or name not in request.query:
        return default
    given = request.query[name]
    value = float(given) if _NUMBER.fullmatch(given) else math.nan
    if not low <= value <= high:
        raise _wrong(name, f"a number from {low:g} to {high:g}", given)
    return value


def whole(request: web.Request, name: str, *, low: int, high: int, default: int) -> int:
    """A whole number from `low` to `high`; empty is as if it were not given. Raises Rejection."""
    given = request.query.get(name)
    if not given:
        return default
    value = _whole(given)
    if value is None or not low <= value <= high:
        raise _wrong(name, f"a whole number from {low} to {high}", given)
    return value


def _whole(text: str) -> int | None:
    if _NUMBER.fullmatch(text) is None or not float(text).is_integer():
        return None
    return int(text) if text.isdigit() else int(float(text))  # a float rounds many digits


def _wrong(name: str, expected: str, given: str) -> Rejection:
    return Rejection(422, "invalid_query", f"`{name}`: must be {expected}, not {given[:40]!r}")
