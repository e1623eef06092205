"""Cancel jobs wherever they are: held, waiting, running, or being recorded."""

from __future__ import annotations

from worker_runtime.clock.source import Clock
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.held import HeldJobs
from worker_runtime.engine.table import JobTable
from worker_runtime.model.activity import Failure
from worker_runtime.model.bounded import cut
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome, OutcomeKind
from worker_runtime.model.states import RUNNING, StopReason
from worker_runtime.stores.boundary import Store

_MESSAGE_BYTES_MAX = 8192


class Cancellation:
    """Ends waiting jobs at once, and tells running ones to stop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        finisher: Finisher,
        held: HeldJobs,
        clock: Clock,
        table: JobTable,
        store: Store,
    ) -> None:
        self._dispatcher = dispatcher
        self._finisher = finisher
        self._held = held
        self._clock = clock
        self._table = table
        self._store = store

    async def cancel(self, job: Job, message: str) -> bool:
        """See `Runtime.cancel`."""
        message = cut(str(message), _MESSAGE_BYTES_MAX)
        await self._shown(job)
        if job.is_ended:
            return False
        if job.id not in self._table.jobs:
            return await self._store.cancel(job, message)
        if job.state is RUNNING:
            return self._dispatcher.request_stop(job, message)
        if not self._held.withdraw(job) and not job.task.is_parked:
            self._dispatcher.withdraw(job)
        self._end(job, message or "cancelled before it started")
        await self._shown(job)
        return True

    def cancel_waiting(self) -> None:
        """End all that waits: nothing will keep it when the process ends."""
        text = "the worker stopped before it started"
        for job in self._held:
            self._held.withdraw(job)
            self._end(job, text)
        for lane in self._dispatcher.lanes.values():
            for job in list(lane.queue):
                lane.queue.withdraw(job)
                self._end(job, text)

    def _end(self, job: Job, text: str) -> None:
        failure = Failure(None, "JobCancelled", text)
        outcome = Outcome(OutcomeKind.STOPPED, failure=failure, stopped_by=StopReason.CANCEL)
        self._finisher.apply(job, outcome, self._clock.unix())

    async def _shown(self, job: Job) -> None:
        while self._finisher.is_in_transition(job):
            await self._finisher.wait_shown(job)
