"""What each dialect's guide says where nobody has set anything, by the dialect's word.

It stands here and not in the dialects' folders, because a Runtime is made with these figures before
there is an HTTP door, and where there is none (docs/decisions/0040).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Dialect = Literal["sandbox", "vera", "operations"]


class Guide(msgspec.Struct, frozen=True):
    """A dialect's defaults; those here are ours, for what a guide leaves open.

    listen_port     where its clients look for a worker
    concurrency     attempts at a time
    task_timeout_s  the longest an attempt may run; None: no limit
    """

    listen_port: int = 8080
    concurrency: int = 10
    task_timeout_s: float | None = None


# In the order in which the dialects are served where nobody says otherwise.
GUIDES: dict[Dialect, Guide] = {
    "sandbox": Guide(),
    "vera": Guide(listen_port=5000, concurrency=4, task_timeout_s=300.0),
    "operations": Guide(listen_port=5003),
}
_NO_GUIDE = Guide()


def guide_of(dialects: Sequence[Dialect]) -> Guide:
    """The guide that decides: the first dialect's. Our own defaults where there is no dialect, or
    one without a row here."""
    return GUIDES.get(dialects[0], _NO_GUIDE) if dialects else _NO_GUIDE
