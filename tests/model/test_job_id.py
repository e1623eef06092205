"""Generated ids are time-ordered, unguessable and valid; given ones are checked."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime import InvalidJob
from worker_runtime.model.job_id import JobIds, check_job_id
from worker_runtime.model.states import JOB_ID_WORDS


def test_an_id_begins_with_its_time_and_differs_in_its_random_part() -> None:
    now = time.time()
    one, other = JobIds().make(now), JobIds().make(now)
    assert re.fullmatch("[0-9a-f]{32}", one)
    assert int(one[:11], 16) == int(now * 1000)
    assert one[:14] == other[:14]
    assert one[14:] != other[14:]


@given(st.lists(st.floats(min_value=0.0, max_value=2e9), min_size=1, max_size=50))
def test_ids_sort_as_they_were_made_whatever_the_clock_does(times: list[float]) -> None:
    ids = JobIds()
    made = [ids.make(now) for now in times for _ in range(3)]
    assert made == sorted(set(made))


def test_more_ids_in_a_millisecond_than_the_count_can_number() -> None:
    ids = JobIds()
    made = [ids.make(1000.0) for _ in range(10_000)]
    assert made == sorted(set(made))
    assert len({job_id[14:] for job_id in made}) == 10_000


@pytest.mark.parametrize("job_id", ["a", "A.b_c:d-9", "x" * 128, "...", ".a", "a."])
def test_ids_that_can_be_given(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id",
    [
        *("", "x" * 129, "a b", "a/b", "../a", "a\n", "é", "\x00", "%0a"),
        *("\N{ARABIC-INDIC DIGIT ONE}", ".", ".."),
    ],
)
def test_hostile_ids_are_refused(job_id: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(JOB_ID_WORDS)):
        check_job_id(job_id)


def test_what_is_not_text_is_refused_and_shown_in_part() -> None:
    for job_id in (None, 5, b"a", "x" * 10_000_000):
        with pytest.raises(InvalidJob) as caught:
            check_job_id(job_id)
        assert len(str(caught.value)) < 300
