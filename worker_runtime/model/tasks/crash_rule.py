"""What becomes of a job whose process died while it ran: one rule, whoever finds it dead."""

from __future__ import annotations

from worker_runtime.model.states import Reason
from worker_runtime.model.tasks.policy import OnCrash


def reason_to_fail(on_crash: OnCrash, crashes: int, crashes_max: int) -> Reason | None:
    """Why a job fails whose process has died `crashes` times, the last one included; None: it runs
    again. Crashes have this budget of their own, and use up no try of the job's Retry.

    Who saw a child die has said so already, and keeps its own words for why.
    """
    if on_crash == "fail":
        return Reason.INTERRUPTED
    return Reason.CRASHED if crashes >= crashes_max else None
