"""What a worker tells its backend about itself: where it is, what it can do, and what has ended.

A worker writes these documents (`web/operations`), a fleet's front reads them (`fleet`). They are
KTRDR's, read from what its `ktrdr/workers/base.py` sends and its `ktrdr/api/endpoints` take.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from worker_runtime.model.states import JOB_ID_PATTERN

# Of what has ended, one registration carries so much; a worker remembers no more.
COMPLETED_MAX = 1000

Id = Annotated[str, msgspec.Meta(pattern=f"^{JOB_ID_PATTERN}$")]
End = Literal["COMPLETED", "FAILED", "CANCELLED"]


class CompletedOperation(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that ended while its worker could not reach its backend."""

    operation_id: Id
    status: End
    result: dict[str, Any] | None = None
    error_message: str | None = None
    completed_at: datetime

    def document(self) -> dict[str, Any]:
        """The operation, as far as its end tells."""
        done = self.status == "COMPLETED"
        return {
            "operation_id": self.operation_id,
            "status": self.status.lower(),
            "completed_at": self.completed_at,
            "progress": {"percentage": 100.0 if done else 0.0, "current_step": None},
            "result_summary": self.result,
            "error_message": self.error_message,
        }


class Registration(msgspec.Struct, frozen=True):
    """The body of `POST /workers/register`. A worker's `endpoint_url` has no trailing slash: the
    backend appends its paths."""

    worker_id: Id
    worker_type: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    endpoint_url: Annotated[
        str, msgspec.Meta(pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$", max_length=500)
    ]
    capabilities: dict[str, Any] | None = None
    current_operation_id: Id | None = None
    completed_operations: Annotated[
        list[CompletedOperation], msgspec.Meta(max_length=COMPLETED_MAX)
    ] = []


class StatusChange(msgspec.Struct, frozen=True):
    """The body of `PATCH /operations/{id}/status`, from a worker that stops: nobody can ask it
    afterwards."""

    status: End
    error_message: str | None = None
