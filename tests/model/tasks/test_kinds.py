"""What an option's value may be, and its way into plain data and back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from worker_runtime import InvalidJob, Priority, Retry, State
from worker_runtime.clock.source import SYSTEM
from worker_runtime.model.tasks.options import (
    OPTIONS,
    PlainOptions,
    as_plain,
    check_plain,
    checked,
    of_plain,
)


def test_what_is_not_given_is_left_out() -> None:
    assert checked(SYSTEM, {option.name: option.absent for option in OPTIONS}) == {}
    assert as_plain(SYSTEM, {"timeout_s": None, "retry": None, "label": None}) == {
        "timeout_s": None,
        "retry": None,
    }
    assert of_plain(PlainOptions()) == {}
    check_plain({"task": 5, "label": None})


def test_options_go_over_a_wire_and_come_back() -> None:
    options = {
        "job_id": "a:b",
        "priority": Priority.LOW,
        "at": datetime(2030, 1, 1, tzinfo=UTC),
        "retry": Retry(max_attempts=9, jitter=0.0),
        "unique_key": "u",
        "unique_states": frozenset({State.FAILED, State.QUEUED}),
        "after": ("a", "b"),
    }
    body = msgspec.json.encode(PlainOptions(**as_plain(SYSTEM, options)))
    assert checked(SYSTEM, of_plain(msgspec.json.decode(body, type=PlainOptions))) == options
    check_plain(msgspec.json.decode(body))


def test_a_collection_is_read_once_and_may_name_a_state_twice() -> None:
    states = iter(["queued", State.QUEUED, State.FAILED])
    found = checked(SYSTEM, {"unique_key": "u", "unique_states": states})["unique_states"]
    assert found == {State.QUEUED, State.FAILED}
    assert all(isinstance(state, State) for state in found)


@pytest.mark.parametrize(
    "given",
    [
        {"delay_s": float("nan")},
        {"delay_s": float("inf")},
        {"timeout_s": False},
        {"unique_key": "u", "unique_states": []},
        {"unique_key": "u", "unique_states": 5},
        {"unique_key": "u", "unique_states": [["queued"]]},
        {"after": ["a b"]},
        {"after": "a"},
        {"delay_s": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"unique_states": [State.QUEUED]},
    ],
)
def test_what_fits_no_kind_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob):
        checked(SYSTEM, given)
