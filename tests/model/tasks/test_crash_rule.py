"""One rule for a job whose process died, in a child, in an earlier life or on another machine."""

from __future__ import annotations

import pytest

from worker_runtime.model.states import Reason
from worker_runtime.model.tasks.crash_rule import reason_to_fail
from worker_runtime.model.tasks.policy import OnCrash


@pytest.mark.parametrize(
    ("on_crash", "crashes", "reason"),
    [
        ("retry", 1, None),
        ("retry", 2, None),
        ("retry", 3, Reason.CRASHED),
        ("retry", 4, Reason.CRASHED),
        ("fail", 1, Reason.INTERRUPTED),
        ("fail", 3, Reason.INTERRUPTED),
    ],
)
def test_a_crash_is_forgiven_until_there_were_too_many_or_the_task_says_never(
    on_crash: OnCrash, crashes: int, reason: Reason | None
) -> None:
    assert reason_to_fail(on_crash, crashes, crashes_max=3) is reason
