"""Whom a fleet's front chooses, by each policy."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest

from worker_runtime.fleet.chooser import Chooser, Policy
from worker_runtime.fleet.members import Load, Member, Status


def _member(name: str, **fields: Any) -> Member:
    member = Member(name, "t", f"http://{name}", is_fixed=True, now=0.0)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def _picks(policy: Policy, members: list[Member], count: int) -> Counter[str]:
    chooser = Chooser(policy)
    chosen = (chooser.choose(members) for _ in range(count))
    return Counter(member.id for member in chosen if member is not None)


def test_each_policy_chooses_as_it_says() -> None:
    idle, busy = _member("idle", load=Load(1, 0, 10)), _member("busy", load=Load(1, 3, 0))
    assert _picks("least_load", [busy, idle], 3) == {"idle": 3}
    assert _picks("round_robin", [_member("a"), _member("b"), _member("c")], 6) == {
        "a": 2,
        "b": 2,
        "c": 2,
    }
    assert _picks("least_connections", [_member("a", in_flight=2), _member("b")], 3) == {"b": 3}
    heavy, light = _member("heavy", capabilities={"cores": 3}), _member("light")
    assert _picks("weighted", [heavy, light], 8) == {"heavy": 6, "light": 2}
    assert _picks("random", [_member("a"), _member("b")], 200).keys() == {"a", "b"}


@pytest.mark.parametrize("policy", get_args(Policy))
def test_only_available_untried_workers_are_chosen(policy: Policy) -> None:
    members = [
        _member("busy", status=Status.BUSY),
        _member("away", status=Status.TEMPORARILY_UNAVAILABLE),
        _member("tried"),
        _member("free"),
    ]
    chooser = Chooser(policy)
    chosen = chooser.choose(members, tried=["tried"])
    assert chosen is not None
    assert chosen.id == "free"
    assert chooser.choose(members, tried=["tried", "free"]) is None


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="policy must be one of least_load"):
        Chooser("best")  # type: ignore[arg-type]
