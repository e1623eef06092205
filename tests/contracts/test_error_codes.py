"""The errors that a worker answers with come back from their words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worker_runtime import errors
from worker_runtime.contracts.error_codes import error_class, status_and_code


def kinds_below(kind: type[errors.WorkerRuntimeError]) -> Iterator[type[errors.WorkerRuntimeError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from kinds_below(below)


@pytest.mark.parametrize(
    "kind", [*kinds_below(errors.Refused), errors.UnknownJob, errors.InvalidTransition]
)
def test_an_error_comes_back_as_itself(kind: type[errors.WorkerRuntimeError]) -> None:
    known = status_and_code(kind("why"))
    assert known is not None
    status, code = known
    assert 400 <= status < 600
    assert error_class(code) is kind


def test_a_refusal_of_a_kind_of_its_own_has_the_word_of_its_base() -> None:
    class Fussy(errors.QueueFull):
        pass

    assert status_and_code(Fussy("why")) == (503, "queue_full")


def test_what_could_not_be_read_is_an_invalid_job() -> None:
    assert error_class("invalid_body") is errors.InvalidJob
    assert error_class("invalid_query") is errors.InvalidJob


def test_other_errors_and_other_words_are_not_known() -> None:
    assert status_and_code(ZeroDivisionError()) is None
    assert status_and_code(errors.WorkerRuntimeError()) is None
    assert error_class("unauthorized") is None
