"""Generated job ids: time-ordered and unguessable."""

from __future__ import annotations

import operator
import os
import re

from worker_runtime.errors import InvalidJob
from worker_runtime.model.states import JOB_ID_PATTERN, JOB_ID_WORDS

_matches = re.compile(JOB_ID_PATTERN).fullmatch
_RANDOM_BYTES = 9
_COUNTS = [f"{n:03x}" for n in reversed(range(1 << 12))]  # reversed, as they are popped


class JobIds:
    """Makes ids of 32 hexadecimal characters: 11 of milliseconds since 1970, 3 of a running count,
    18 (72 bits) from the system's random source.

    Guarantees: ids of one generator sort in the order they were made, also when the clock is set
    back.
    """

    __slots__ = ("_milliseconds", "_prefix", "_tails", "_valid_until")

    def __init__(self) -> None:
        self._milliseconds = 0
        self._prefix = ""
        self._tails: list[str] = []
        self._valid_until = 0.0

    def make(self, now: float) -> str:
        """A new id for `now` (Unix seconds)."""
        if now >= self._valid_until or not self._tails:
            self._advance(now)
        return self._prefix + self._tails.pop()

    def _advance(self, now: float) -> None:
        milliseconds = max(int(now * 1000), self._milliseconds)
        if not self._tails:
            # The count starts again, so that the time must move on. One system call for many ids:
            # drawing for each would cost more than the rest of making a job.
            milliseconds = max(milliseconds, self._milliseconds + 1)
            randoms = os.urandom(_RANDOM_BYTES * len(_COUNTS)).hex(" ", _RANDOM_BYTES).split()
            self._tails = list(map(operator.add, _COUNTS, randoms))
        self._milliseconds = milliseconds
        self._prefix = f"{milliseconds:011x}"
        self._valid_until = (milliseconds + 1) / 1000


def check_job_id(job_id: object) -> str:
    """`job_id`, if it can be one. Raises InvalidJob."""
    if not isinstance(job_id, str) or _matches(job_id) is None:
        raise InvalidJob(f"job id {str(job_id)[:140]!r} must {JOB_ID_WORDS}")
    return job_id
