"""Whom to give the next operation: one of several workers, by a policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

from worker_runtime.fleet.members import Load, Member, Status

Policy = Literal["least_load", "round_robin", "least_connections", "weighted", "random"]


class Chooser:
    """Picks one of several workers, by a policy."""

    def __init__(self, policy: Policy = "least_load") -> None:
        self._choices: dict[str, Callable[[Sequence[Member]], Member]] = {
            "least_load": lambda found: min(found, key=lambda m: (_score(m.load), m.chosen_count)),
            "round_robin": lambda found: min(found, key=lambda m: m.chosen_count),
            "least_connections": lambda found: min(
                found, key=lambda m: (m.in_flight, m.chosen_count)
            ),
            "weighted": _weighted,
            "random": random.choice,
        }
        if policy not in self._choices:
            allowed = ", ".join(self._choices)
            raise ValueError(f"policy must be one of {allowed}, not {policy!r}")
        self._choice = self._choices[policy]

    def choose(self, members: Iterable[Member], tried: Collection[str] = ()) -> Member | None:
        """An available worker that was not `tried` yet; None where there is none."""
        found = [m for m in members if m.status is Status.AVAILABLE and m.id not in tried]
        if not found:
            return None
        chosen = self._choice(found)
        chosen.chosen_count += 1
        return chosen


def _weighted(found: Sequence[Member]) -> Member:
    """Smooth weighted round robin: shares by weight, without bursts on the heaviest."""
    for member in found:
        member.credit += member.weight
    chosen = max(found, key=lambda member: member.credit)
    chosen.credit -= sum(member.weight for member in found)
    return chosen


def _score(load: Load) -> float:
    """The least is chosen. Reckoned as in the load balancing of Vera's worker guide."""
    return 2 * load.active + load.waiting + load.cpu_percent / 10
