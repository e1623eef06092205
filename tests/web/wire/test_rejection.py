"""What an error amounts to, for a client."""

from __future__ import annotations

import pytest

from worker_runtime import errors
from worker_runtime.web.wire.rejection import problem_document, rejection_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidArguments("a"), 422),
        (errors.InvalidJob("a"), 422),
        (errors.UnknownTask("a"), 404),
        (errors.UnknownQueue("a"), 404),
        (errors.UnknownJob("a"), 404),
        (errors.JobConflict("a"), 409),
        (errors.InvalidTransition("a"), 409),
        (errors.PayloadTooLarge("a"), 413),
        (errors.QueueFull("a"), 503),
        (errors.Overloaded("a"), 503),
        (errors.StoreUnavailable("a"), 503),
        (errors.ShuttingDown("a"), 503),
        (ZeroDivisionError("secret"), 500),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    rejection = rejection_of(error)
    assert rejection.status == status
    assert ("Retry-After" in (rejection.headers or {})) is (status == 503)
    assert "secret" not in str(problem_document(rejection))


def test_retry_after_is_in_whole_seconds_and_never_0() -> None:
    for seconds, header in ((0.0, "1"), (0.4, "1"), (5.0, "5")):
        rejection = rejection_of(errors.QueueFull("full", retry_after_s=seconds))
        assert rejection.headers == {"Retry-After": header}
