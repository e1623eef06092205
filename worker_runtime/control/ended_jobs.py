"""What may be done about jobs that have ended: run them again, or delete them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from worker_runtime.acceptance.intake import Intake
from worker_runtime.control.inspection import Inspection
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.table import JobTable
from worker_runtime.errors import InvalidTransition, Unavailable, UnknownJob
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job
from worker_runtime.model.states import COMPLETED, RETRYABLE_STATES, TERMINAL_STATES
from worker_runtime.stores.boundary import Store


class BulkResult(msgspec.Struct, frozen=True):
    """What was done about many jobs: the ids of those it was done to, and whether others that match
    are left, because of the limit or because a queue has no room."""

    jobs: list[str]
    has_more: bool


class EndedJobs:
    """Retries and deletes ended jobs, whether memory or only the store has them."""

    def __init__(
        self,
        inspection: Inspection,
        table: JobTable,
        store: Store,
        intake: Intake,
        finisher: Finisher,
    ) -> None:
        self._inspection = inspection
        self._table = table
        self._store = store
        self._intake = intake
        self._finisher = finisher

    async def retry(self, job: Job) -> Job:
        """See `Runtime.retry`."""
        [(job, parents)] = await self._with_parents([job])
        refusal = self._refusal(job, parents, frozenset(), set())
        if refusal is not None:
            raise refusal
        _drop_expiry(job)
        self._intake.check_room_for([job])
        [job] = await self._revive([(job, parents)])
        return job

    async def retry_together(self, jobs: Iterable[Job]) -> int:
        """Run the failed and cancelled ones of a workflow's jobs (parents before their children)
        again: all of them, or none. Returns how many there were. Raises InvalidTransition,
        Unavailable."""
        found = await self._with_parents([job for job in jobs if job.state in RETRYABLE_STATES])
        ids = frozenset(job.id for job, _ in found)
        keys: set[str] = set()
        for job, parents in found:
            refusal = self._refusal(job, parents, ids, keys)
            if refusal is not None:
                raise refusal
        for job, _ in found:
            _drop_expiry(job)
        self._intake.check_room_for([job for job, _ in found])
        await self._revive(found)
        return len(found)

    async def retry_many(self, wanted: JobFilter, limit: int) -> BulkResult:
        """See `Runtime.retry_many`."""

        async def retry(jobs: Sequence[Job]) -> tuple[list[str], bool]:
            found = await self._with_parents(sorted(jobs, key=lambda job: job.order))
            ids = frozenset(job.id for job, _ in found)
            keys: set[str] = set()
            fit = [one for one in found if self._refusal(*one, ids, keys) is None]
            for job, _ in fit:
                _drop_expiry(job)
            taken = fit[: self._room_for([job for job, _ in fit])]
            await self._revive(taken)
            return [job.id for job, _ in taken], len(taken) == len(fit)

        return await self._in_pages(wanted, limit, retry)

    async def delete(self, job: Job) -> None:
        """See `Runtime.delete`."""
        if job.id not in await self._deleted([job]):
            raise InvalidTransition(f"job {job.id} is {job.state}; only ended jobs are deleted")

    async def delete_many(self, wanted: JobFilter, limit: int) -> BulkResult:
        """See `Runtime.delete_many`."""

        async def delete(jobs: Sequence[Job]) -> tuple[list[str], bool]:
            return await self._deleted(jobs), True

        return await self._in_pages(wanted, limit, delete)

    async def _in_pages(
        self,
        wanted: JobFilter,
        limit: int,
        act: Callable[[Sequence[Job]], Awaitable[tuple[list[str], bool]]],
    ) -> BulkResult:
        """Do `act` to up to `limit` jobs, newest first. What it could do nothing about is passed
        over; it ends where `act` says that it cannot go on."""
        done: list[str] = []
        cursor: str | None = None
        while True:
            jobs, cursor = await self._inspection.jobs(
                wanted, limit=limit - len(done), cursor=cursor
            )
            ids, can_go_on = await act(jobs)
            done += ids
            if cursor is None or not can_go_on or len(done) >= limit:
                return BulkResult(done, cursor is not None or not can_go_on)

    async def _with_parents(self, jobs: Sequence[Job]) -> list[tuple[Job, Sequence[Job]]]:
        """The jobs as they are once nothing about them is being recorded, with their parents."""
        by_id = {job.id: job for job in jobs}
        parents: dict[str, Job | None] = {}
        for job in jobs:
            for parent_id in () if job.options is None else job.options.after:
                if parent_id not in parents:
                    parents[parent_id] = await self._parent(parent_id)
        for job in jobs:
            await self._shown(job)
        # No more waiting from here on. Another call may have brought some of them back meanwhile.
        live = {id: self._table.jobs.get(id, job) for id, job in by_id.items()}
        found: list[tuple[Job, Sequence[Job]]] = []
        for job_id in by_id:
            job = live[job_id]
            ids = () if job.options is None else job.options.after
            family = [live.get(id) or self._table.jobs.get(id) or parents[id] for id in ids]
            found.append((job, [parent for parent in family if parent is not None]))
        return found

    async def _parent(self, job_id: str) -> Job | None:
        try:
            return await self._inspection.job(job_id)
        except UnknownJob:
            return None

    def _refusal(
        self, job: Job, parents: Sequence[Job], together: frozenset[str], keys: set[str]
    ) -> InvalidTransition | None:
        """Why the job cannot run again, if it cannot; `together` run again with it, and `keys` are
        the unique keys of those that were asked about before: its own joins them."""
        if self._finisher.is_in_transition(job) or job.state not in RETRYABLE_STATES:
            text = f"job {job.id} is {job.state}; only failed or cancelled jobs run again"
            return InvalidTransition(text)
        if job.task.is_parked:
            return InvalidTransition(f"job {job.id}: its task {job.task.name!r} is not registered")
        options = job.options
        if options is not None and options.takes_results and len(parents) < len(options.after):
            return InvalidTransition(
                f"job {job.id}: a job whose result it needs is not kept any more: "
                f"one of {', '.join(options.after)}"
            )
        for parent in parents:
            if parent.is_ended and parent.state is not COMPLETED and parent.id not in together:
                text = f"job {job.id}: its parent {parent.id} is {parent.state}; retry that too"
                return InvalidTransition(text)
        return self._key_refusal(job, keys)

    def _key_refusal(self, job: Job, keys: set[str]) -> InvalidTransition | None:
        key = None if job.options is None else job.options.unique_key
        if key is None:
            return None
        other = self._intake.unique_keys.other_holder(key, job)
        if other is not None or key in keys:
            holder = "another that is retried" if other is None else f"job {other.id}"
            return InvalidTransition(f"job {job.id}: {holder} has its unique key {key!r} now")
        keys.add(key)
        return None

    def _room_for(self, jobs: Sequence[Job]) -> int:
        """How many of `jobs`, from the first on, their queues have room for."""
        counts: Counter[str] = Counter()
        for number, job in enumerate(jobs):
            counts[job.queue] += 1
            try:
                self._intake.check_room(job, counts[job.queue])
            except Unavailable:
                return number
        return len(jobs)

    async def _revive(self, found: Sequence[tuple[Job, Sequence[Job]]]) -> list[Job]:
        """Have the jobs run again, each after its parents; returns their records from now on."""

        def revive() -> None:
            for job, parents in found:
                self._table.adopt(job)
                if parents:
                    self._intake.held.expect(job, parents)
                self._finisher.revive(job)
                if job.options is not None and job.options.unique_key is not None:
                    self._intake.unique_keys.claim(job.options.unique_key, job)

        jobs = await self._store.bring_back([job for job, _ in found], revive)
        for job in jobs:
            await self._shown(job)
        return jobs

    async def _deleted(self, jobs: Sequence[Job]) -> list[str]:
        """Delete those that have ended; returns their ids. Raises InvalidTransition where the store
        cannot."""
        if "delete" in self._store.lacks:
            raise InvalidTransition(self._store.lacks["delete"])
        for job in jobs:
            await self._shown(job)
        ended = [job for job in jobs if job.state in TERMINAL_STATES]
        await self._store.delete([job.id for job in ended])
        gone = []
        for job in ended:
            kept = self._table.jobs.get(job.id, job)
            if kept.is_ended and not self._finisher.is_in_transition(kept):  # nor brought back
                self._table.forget(kept)
                gone.append(job.id)
        return gone

    async def _shown(self, job: Job) -> None:
        while self._finisher.is_in_transition(job):
            await self._finisher.wait_shown(job)


def _drop_expiry(job: Job) -> None:
    """Whoever asks for an old job to be run wants it run, though it is too late for its caller."""
    if job.options is not None and job.options.expires_at is not None:
        job.options = msgspec.structs.replace(job.options, expires_at=None)
