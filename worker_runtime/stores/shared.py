"""A store that other processes use too, and how a runtime is to work with it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

POLL_MAX_S = 0.5

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class SharedSetup(Generic[S]):
    """A shared store and how a runtime is to work with it.

    serves          the queues to take jobs from; None: all
    tries_max       see `ClaimedJobs`, as `crashes_max`, `aborts` and `leaves_unknown`
    poll_max_s      the longest time between two looks into a queue
    jobs_max        how many jobs are taken at most; None: any number
    any_name        task names are the fleet's, and may be any text
    keeps_late_ends see `Attempts`
    health_every_s  how often the health key is written; 0: never. `health_key`: its name, by queue
    """

    store: S
    serves: Collection[str] | None = None
    tries_max: Callable[[str], int] | None = None
    aborts: bool = True
    leaves_unknown: bool = True
    poll_max_s: float = POLL_MAX_S
    jobs_max: int | None = None
    any_name: bool = False
    keeps_late_ends: bool = False
    health_every_s: float = 30.0
    health_key: str | None = None
