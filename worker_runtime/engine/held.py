"""Jobs that wait for other jobs: held until their parents have completed.

The rule for a parent that fails or is cancelled: what waits for it is cancelled, and so is what
waits for that. Retrying the whole workflow queues those jobs again, in the same order.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.expiry import Expiry
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.table import JobTable
from worker_runtime.model.activity import Failure
from worker_runtime.model.bounded import error_text
from worker_runtime.model.job import Job
from worker_runtime.model.outcome import Outcome, OutcomeKind
from worker_runtime.model.states import COMPLETED, SCHEDULED, Reason, StopReason


class _Held(msgspec.Struct, gc=False, eq=False):
    """A job that waits, and the ids of the parents that have not ended."""

    job: Job
    parents: Sequence[Job]
    missing: set[str]


class HeldJobs:
    """Accepted jobs whose parents have not all completed.

    Guarantees: a held job is submitted exactly once, after the last of its parents completed, or
    ends as cancelled after the first of them did not; until then it counts as waiting in its queue.
    Parents are held by reference: a history that drops one loses no result that a child needs.
    """

    def __init__(
        self,
        table: JobTable,
        finisher: Finisher,
        dispatcher: Dispatcher,
        expiry: Expiry,
        clock: Clock,
    ) -> None:
        self._table = table
        self._finisher = finisher
        self._dispatcher = dispatcher
        self._expiry = expiry
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._children: dict[str, list[str]] = {}
        self._returning: dict[str, Sequence[Job]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, job: Job) -> bool:
        return job.id in self._held

    def __iter__(self) -> Iterator[Job]:
        return (held.job for held in list(self._held.values()))

    def hold(self, job: Job, parents: Sequence[Job]) -> None:
        """Keep `job` back until all of `parents` have ended."""
        job.state = SCHEDULED
        held = _Held(job, parents, {parent.id for parent in parents if not parent.is_ended})
        self._held[job.id] = held
        self._dispatcher.lanes[job.queue].queue.reserve()
        try:
            for parent in {p.id: p for p in parents if not p.is_ended}.values():
                self._watch(parent, job.id)
        except BaseException:
            self.withdraw(job)
            raise
        lost = next((p for p in parents if p.is_ended and p.state is not COMPLETED), None)
        if lost is not None:
            self._cancel(held, lost)
        elif not held.missing:
            self._release(held)
        else:
            self._expiry.watch(job, self.withdraw)

    def withdraw(self, job: Job) -> bool:
        """Take a job out that is going to be cancelled; False where it is not held."""
        if self._held.pop(job.id, None) is None:
            return False
        self._dispatcher.lanes[job.queue].queue.unreserve()
        self._expiry.forget(job)
        self._dispatcher.tell_ended()
        return True

    def orphan(self, job: Job, parent_id: str) -> None:
        """End a recovered job whose parent is not kept any more."""
        text = f"its parent {parent_id} is not kept any more, and with it the result it waited for"
        self._fail(job, Failure(Reason.ERROR, "ParentGone", text))

    def expect(self, job: Job, parents: Sequence[Job]) -> None:
        """`job` ended before all of `parents` completed and is about to be revived."""
        self._returning[job.id] = parents

    def submit(self, job: Job) -> None:
        """Have a job run that is to run again; one that `expect` named waits for its parents."""
        parents = self._returning.pop(job.id, None)
        if parents is None:
            self._dispatcher.submit(job)
        else:
            self.hold(job, parents)

    def _watch(self, parent: Job, child_id: str) -> None:
        """One waiter per parent, however many children it has."""
        children = self._children.get(parent.id)
        if children is not None:
            children.append(child_id)
            return
        self._children[parent.id] = [child_id]
        ended = self._table.wait_uncounted(parent)
        ended.add_done_callback(functools.partial(self._parent_ended, parent))

    def _parent_ended(self, parent: Job, ended: asyncio.Future[None]) -> None:
        children = self._children.pop(parent.id, ())
        if ended.cancelled() or ended.exception() is not None:  # the runtime stops
            return
        for child_id in children:
            held = self._held.get(child_id)
            if held is None:
                continue
            held.missing.discard(parent.id)
            if parent.state is not COMPLETED:
                self._cancel(held, parent)
            elif not held.missing:
                self._release(held)

    def _release(self, held: _Held) -> None:
        job = held.job
        self.withdraw(job)
        assert job.options is not None
        takes = job.options.takes_results
        if takes is not None:
            results = [parent.result for parent in held.parents]
            lead = results[0] if takes == "one" else results
            try:
                job.args, job.kwargs = job.task.signature.bind(
                    (lead, *job.args), job.kwargs, wire=True
                )
            except Exception as error:  # InvalidArguments, or what a type of the user's raises
                text = f"the result it was to take does not fit: {error_text(error, 1000)}"
                self._fail(job, Failure(Reason.ERROR, type(error).__name__, text))
                return
            # From here on the results are arguments like any other: kept when the job is retried.
            job.accepted = None
            job.options = msgspec.structs.replace(job.options, takes_results=None)
        self._dispatcher.submit(job)

    def _cancel(self, held: _Held, parent: Job) -> None:
        self.withdraw(held.job)
        failure = Failure(None, "JobCancelled", f"its parent {parent.id} ended as {parent.state}")
        outcome = Outcome(OutcomeKind.STOPPED, failure=failure, stopped_by=StopReason.CANCEL)
        self._finisher.apply(held.job, outcome, self._clock.unix())

    def _fail(self, job: Job, failure: Failure) -> None:
        outcome = Outcome(OutcomeKind.RAISED, failure=failure)
        self._finisher.apply(job, outcome, self._clock.unix())
