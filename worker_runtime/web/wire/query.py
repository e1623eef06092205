"""What a query string says."""

from __future__ import annotations

import re

from aiohttp import web

from worker_runtime.web.wire.rejection import Rejection

# Decimal notation. Python's own float() also takes ` 1`, `1_0` and the digits of every script.
_NUMBER = re.compile(r"-?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE]-?[0-9]{1,3})?")


def number(
    request: web.BaseRequest,
    name: str,
    *,
    low: float,
    high: float,
    default: float,
    is_whole: bool = False,
) -> float:
    """A number from the query string. Raises Rejection (422) outside `low`..`high`."""
    if not request.query_string or name not in request.query:
        return default
    text = request.query[name]
    value = float(text) if _NUMBER.fullmatch(text) else float("nan")
    if not low <= value <= high or (is_whole and not value.is_integer()):
        kind = "whole number" if is_whole else "number"
        detail = f"`{name}`: must be a {kind} from {low:g} to {high:g}, not {text[:40]!r}"
        raise Rejection(422, "invalid_query", detail)
    return value
