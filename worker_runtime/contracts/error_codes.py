"""The word and the HTTP status of each error that a worker answers with: a server goes from the
error to them, a client from the word back to the error."""

from __future__ import annotations

from worker_runtime import errors

Answered = errors.Refused | errors.UnknownJob | errors.InvalidTransition

# The first class that fits counts, so subclasses come before their bases.
_ERRORS: tuple[tuple[type[Answered], int, str], ...] = (
    (errors.InvalidArguments, 422, "invalid_arguments"),
    (errors.InvalidJob, 422, "invalid_job"),
    (errors.UnknownTask, 404, "unknown_task"),
    (errors.UnknownQueue, 404, "unknown_queue"),
    (errors.UnknownJob, 404, "unknown_job"),
    (errors.JobConflict, 409, "job_conflict"),
    (errors.InvalidTransition, 409, "invalid_transition"),
    (errors.PayloadTooLarge, 413, "payload_too_large"),
    (errors.QueueFull, 503, "queue_full"),
    (errors.Overloaded, 503, "overloaded"),
    (errors.StoreUnavailable, 503, "store_unavailable"),
    (errors.ShuttingDown, 503, "shutting_down"),
    (errors.Unavailable, 503, "unavailable"),
)
# What could not even be read as a job or a question; for whoever sent it that is the same mistake.
_UNREADABLE = ("invalid_body", "invalid_query")

_CLASSES: dict[str, type[Answered]] = {
    **dict.fromkeys(_UNREADABLE, errors.InvalidJob),
    **{code: kind for kind, _, code in _ERRORS},
}


def status_and_code(error: BaseException) -> tuple[int, str] | None:
    """What a server answers `error` with; None for one that no client is told about."""
    for kind, status, code in _ERRORS:
        if isinstance(error, kind):
            return status, code
    return None


def error_class(code: str) -> type[Answered] | None:
    """The error that `code` stands for; None for a word that is not one of these."""
    return _CLASSES.get(code)
