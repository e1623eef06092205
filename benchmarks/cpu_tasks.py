"""What the CPU pool benchmark runs in children."""

from __future__ import annotations

import os
import time

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def noop() -> None:
    pass


def spin(iterations: int) -> int:
    """CPU work of a fixed size, so that a core that is shared shows as time."""
    number = 1
    for _ in range(iterations):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
    return number


def hang() -> None:
    while True:
        time.sleep(1)


def die() -> None:
    os._exit(1)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def double(array: Array) -> Array:
    array *= 2
    return array
