"""What a client of the native API writes, and what it makes of an answer: the value in it, or the
error that a refusal stands for."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from worker_runtime import errors
from worker_runtime.contracts.error_codes import error_class
from worker_runtime.contracts.fetch import Fetched, FetchFailed
from worker_runtime.contracts.job_documents import NewJob

_RETRY_AFTER_MAX_S = 3600.0


class WorkerUnreachable(errors.WorkerRuntimeError):
    """The worker gave no usable answer. The job may have been accepted: the same id asks again."""


class RequestFailed(errors.WorkerRuntimeError):
    """The worker answered with a status that no other error stands for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def encoded(new: NewJob) -> msgspec.Raw:
    """The job to be as JSON. Raises InvalidArguments for arguments that have no JSON form."""
    try:
        return msgspec.Raw(msgspec.json.encode(new))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.InvalidArguments(f"arguments cannot be encoded: {error}") from None


def decode(answer: Fetched, kind: Any) -> Any:
    """The answer's body as `kind`. Raises WorkerUnreachable: whoever answers so is no worker."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerUnreachable(f"the answer is not a worker's: {error}") from None


def error_of(answer: Fetched) -> errors.WorkerRuntimeError:
    """The error that a refusal stands for; the same that an embedded runtime would raise."""
    try:
        problem = answer.json()
    except FetchFailed:
        problem = None
    if not isinstance(problem, dict):
        return RequestFailed(answer.status, answer.text())
    message = str(problem.get("detail", answer.text()))
    kind = error_class(str(problem.get("code")))
    if kind is None:
        return RequestFailed(answer.status, message)
    if issubclass(kind, errors.Unavailable):
        return kind(
            message,
            retry_after_s=retry_after_s(answer) or 1.0,
            position=_whole(problem.get("position")),
            predicted_wait_s=_seconds(problem.get("predicted_wait_s")),
        )
    return kind(message)


def retry_after_s(answer: Fetched) -> float | None:
    """The seconds of a Retry-After header; None without one (or with a date, which no worker of
    ours sends)."""
    text = answer.headers.get("retry-after", "")
    return min(_RETRY_AFTER_MAX_S, float(text)) if text.isascii() and text.isdigit() else None


def result_type(task: Callable[..., Any] | str) -> Any:
    """What the task returns, as annotated; Any where that cannot be told."""
    if isinstance(task, str):
        return Any
    try:
        kind = typing.get_type_hints(inspect.unwrap(task)).get("return", Any)
        msgspec.json.Decoder(kind)
    except Exception:  # an annotation that msgspec cannot express: the plain value then
        return Any
    return kind


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
