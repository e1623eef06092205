"""Generated job ids: time-ordered and unguessable."""

from __future__ import annotations

import os
import re
import time

from worker_runtime.errors import InvalidJob
from worker_runtime.job import JOB_ID_PATTERN

_matches = re.compile(JOB_ID_PATTERN).fullmatch
_RANDOM_BYTES = 9
_DRAWN_AT_A_TIME = 256
_COUNT_MAX = 1 << 12
_COUNTS = [f"{n:03x}" for n in range(_COUNT_MAX)]


class JobIds:
    """Makes ids of 32 hexadecimal characters: 11 of milliseconds since 1970, 3 of a count within
    the millisecond, 18 (72 bits) from the system's random source.

    Guarantees: ids of one generator sort in the order they were made, also when the clock is set
    back.
    """

    __slots__ = ("_count", "_milliseconds", "_prefix", "_randoms")

    def __init__(self) -> None:
        self._milliseconds = 0
        self._prefix = ""
        self._count = 0
        self._randoms: list[str] = []

    def make(self) -> str:
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            self._prefix = f"{milliseconds:011x}"
            self._count = 0
        elif self._count >= _COUNT_MAX:
            self._milliseconds += 1
            self._prefix = f"{self._milliseconds:011x}"
            self._count = 0
        count = self._count
        self._count = count + 1
        if not self._randoms:
            self._draw()
        return f"{self._prefix}{_COUNTS[count]}{self._randoms.pop()}"

    def _draw(self) -> None:
        # One system call for many ids: drawing for each would cost more than the rest of `make`.
        text = os.urandom(_RANDOM_BYTES * _DRAWN_AT_A_TIME).hex()
        size = 2 * _RANDOM_BYTES
        self._randoms = [text[i : i + size] for i in range(0, len(text), size)]


def check_job_id(job_id: object) -> str:
    """`job_id`, if it can be one. Raises InvalidJob."""
    if not isinstance(job_id, str) or _matches(job_id) is None:
        raise InvalidJob(f"job id {str(job_id)[:140]!r} must match {JOB_ID_PATTERN}")
    return job_id
