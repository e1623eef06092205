"""A job in the native API's bodies: as a client asks for it, and as a worker shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from worker_runtime.model.snapshot import AttemptInfo, JobInfo
from worker_runtime.model.tasks.options import PlainOptions


class NewJob(PlainOptions):
    """A job to be: a call and its options. All but `task` may be left out; then it is as the task's
    policy says.

    Null means "not given", but no limit as `timeout_s` and no retry as `retry`. `at` is a time with
    an offset. `after` names kept jobs by their ids.
    """

    task: str
    args: list[Any] = msgspec.field(default_factory=list)
    kwargs: dict[str, Any] | None = None


class JobDocument(JobInfo, frozen=True, gc=False):
    """A job with its result. `result_error` says why there is none, where it cannot be shown: a
    job enqueued in Python may return what has no encoding, or one too large."""

    result: Any = None
    result_error: str | None = None


class JobSnapshot(JobDocument, frozen=True):
    """A job as a client reads it. `result` is still encoded: the caller knows what type it has."""

    result: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def is_ended(self) -> bool:
        return self.ended_at is not None


class SnapshotPage(msgspec.Struct, frozen=True):
    """Jobs, newest first. Pass `cursor` to get those after them; None: there are no more."""

    jobs: list[JobSnapshot]
    cursor: str | None


class ShownJob(JobDocument, frozen=True):
    """A job asked for by its id: with its attempts, oldest first."""

    attempts: tuple[AttemptInfo, ...] = ()


class BatchItem(msgspec.Struct, omit_defaults=True, gc=False):
    """The answer to one job of a batch, as it would have been on its own."""

    status: int
    job: JobDocument | None = None
    problem: Mapping[str, Any] | None = None
