"""Exceptions at chosen calls: whatever runs inside of a function is made to raise, once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

Point = tuple[str, int, str]
"""A call: the function it is made in, its line there, and the name of what is called."""


class Injected(Exception):
    """Raised in place of a call that is not made."""


class Injector:
    """Sees every call that code of the package makes while one of the `watched` functions runs, of
    Python and C functions alike, and makes the first one at `target` raise. What a module calls
    that is its own is no such call for the one `inside`.

    `seen` are the points in the order of their first call.
    """

    def __init__(self, package: str, inside: str) -> None:
        self._package = package
        self._inside = inside
        self._depth = 0
        self.seen: dict[Point, None] = {}
        self.target: Point | None = None
        self.hits = 0

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return function(*args, **kwargs)
            self._depth = 1
            sys.setprofile(self._profile)
            try:
                return function(*args, **kwargs)
            finally:
                sys.setprofile(None)
                self._depth = 0

        return run

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            caller, callee = frame.f_back, frame.f_code.co_qualname
            if frame.f_code.co_filename == self._inside:
                return
        elif event == "c_call":
            caller, callee = frame, getattr(arg, "__qualname__", repr(arg))
        else:
            return
        if caller is None or self._package not in caller.f_code.co_filename:
            return
        if callee.endswith("._remove"):  # of a weak reference: who was collected is asked nothing
            return
        point = (caller.f_code.co_qualname, caller.f_lineno, callee)
        self.seen.setdefault(point)
        if point == self.target:
            self.target = None
            self.hits += 1
            raise Injected(f"{point[2]} at {point[0]}:{point[1]}")
