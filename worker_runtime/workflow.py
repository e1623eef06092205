"""Jobs that wait for other jobs: held until their parents have completed.

The rule for a parent that fails or is cancelled: what waits for it is cancelled, and so is what
waits for that. Retrying the whole workflow queues those jobs again, in the same order.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator, Sequence

from worker_runtime.clock import Clock
from worker_runtime.errors import InvalidArguments
from worker_runtime.finisher import Finisher
from worker_runtime.job import (
    COMPLETED,
    SCHEDULED,
    Failure,
    Job,
    Outcome,
    OutcomeKind,
    Reason,
    StopReason,
)
from worker_runtime.table import JobTable

logger = logging.getLogger("worker_runtime.workflow")


class HeldJobs:
    """Accepted jobs whose parents have not all completed.

    Guarantees: a held job is submitted exactly once, after the last of its parents completed, or
    ends as cancelled after the first of them did not. Parents are held by reference: a history that
    drops one loses no result that a child still needs.
    """

    def __init__(
        self,
        table: JobTable,
        finisher: Finisher,
        clock: Clock,
        *,
        submit: Callable[[Job], None],
    ) -> None:
        self._table = table
        self._finisher = finisher
        self._clock = clock
        self._submit = submit
        self._parents: dict[str, tuple[Job, Sequence[Job]]] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def __contains__(self, job: Job) -> bool:
        return job.id in self._parents

    def __iter__(self) -> Iterator[Job]:
        return (job for job, _ in list(self._parents.values()))

    def hold(self, job: Job, parents: Sequence[Job]) -> None:
        """Keep `job` back until all of `parents` have ended."""
        job.state = SCHEDULED
        self._parents[job.id] = (job, parents)
        for parent in parents:
            if not parent.is_ended:
                ended = self._table.wait(parent)
                ended.add_done_callback(functools.partial(self._parent_ended, job.id))
        self._look(job.id)

    def withdraw(self, job: Job) -> bool:
        """Take a job out that is going to be cancelled; False where it is not held."""
        return self._parents.pop(job.id, None) is not None

    def orphan(self, job: Job, parent_id: str) -> None:
        """End a recovered job whose parent is not kept any more."""
        text = f"its parent {parent_id} is not kept any more, and with it the result it waited for"
        self._end(job, Failure(Reason.ERROR, "ParentGone", text))

    def _parent_ended(self, job_id: str, ended: asyncio.Future[None]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            self._look(job_id)

    def _look(self, job_id: str) -> None:
        job, parents = self._parents.get(job_id, (None, ()))
        if job is None:
            return
        for parent in parents:
            if parent.is_ended and parent.state is not COMPLETED:
                del self._parents[job_id]
                text = f"its parent {parent.id} ended as {parent.state}"
                self._end(job, Failure(None, "JobCancelled", text))
                return
        if all(parent.is_ended for parent in parents):
            del self._parents[job_id]
            self._release(job, parents)

    def _release(self, job: Job, parents: Sequence[Job]) -> None:
        assert job.options is not None
        if job.options.takes_results:
            results = [parent.result for parent in parents]
            lead = results[0] if job.options.takes_results == "one" else results
            try:
                job.args, job.kwargs = job.task.signature.bind(
                    (lead, *job.args), job.kwargs, wire=True
                )
            except InvalidArguments as error:
                text = f"the result it was to take does not fit: {error}"
                self._end(job, Failure(Reason.ERROR, "InvalidArguments", text))
                return
        self._submit(job)

    def _end(self, job: Job, failure: Failure) -> None:
        if failure.reason is None:
            outcome = Outcome(OutcomeKind.STOPPED, failure=failure, stopped_by=StopReason.CANCEL)
        else:
            outcome = Outcome(OutcomeKind.RAISED, failure=failure)
        self._finisher.apply(job, outcome, self._clock.unix())
