"""How much work an operation is: counted in lines of code, which no busy machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


def steps_of(operation: Callable[[], Any], *modules: ModuleType) -> int:
    """How many lines of `modules` are executed while `operation` runs. What C does in one go, as a
    heap that is pushed to, is part of the line that asks for it."""
    files = {module.__file__ for module in modules}
    count = 0

    def each_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return each_line

    def each_call(frame: FrameType, event: str, _: Any) -> Any:
        return each_line if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        operation()
    finally:
        sys.settrace(before)
    return count
