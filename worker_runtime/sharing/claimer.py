"""Take due jobs out of a shared store whenever a slot is free, and hand them to the dispatcher.

The claimer is responsible for when to look: at once when a client of ours says that there is
something, when a scheduled job becomes due, when a slot is freed while more was waiting, and, for
clients that say nothing, by a poll that is quick while jobs arrive and slow while none do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.draining import Draining
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.model.job import Job
from worker_runtime.model.states import RUNNING, StopReason
from worker_runtime.sharing.claimed import ClaimedJobs
from worker_runtime.sharing.watched import WatchedJobs
from worker_runtime.stores.redis.location import end_tasks
from worker_runtime.stores.redis.script import REDIS_ERRORS, is_passing
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.shared import POLL_MAX_S

logger = logging.getLogger("worker_runtime.claimer")

_POLL_MIN_S = 0.01
_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0
_CLAIM_MAX = 200
# Longer than a worker that lives takes to renew its leases once Redis answers again.
_OTHERS_FIRST_S = 1.0
_PROGRESS_EVERY_S = 1.0
# Attempts shorter than this are claimed ahead of free slots: a round trip costs more than they do.
_SHORT_ATTEMPT_S = 0.05


class Claimer:
    """Keeps a runtime's lanes fed from Redis.

    Guarantees: no more jobs are held than there are free slots, except while attempts are so short
    that the slots would wait for claims; then at most as many again. No error of Redis ends it.
    """

    def __init__(
        self,
        store: RedisStore,
        lanes: Mapping[str, Lane],
        dispatcher: Dispatcher,
        draining: Draining,
        table: JobTable,
        watched: WatchedJobs,
        claimed: ClaimedJobs,
        clock: Clock,
        *,
        poll_max_s: float = POLL_MAX_S,
        aborts: bool = True,
        jobs_max: int | None = None,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._dispatcher = dispatcher
        self._draining = draining
        self._table = table
        self._watched = watched
        self._claimed = claimed
        self._clock = clock
        self._poll_max_s = poll_max_s
        self._aborts = aborts
        self._aborts_news = asyncio.Event()
        self._jobs_max = jobs_max
        self._news = asyncio.Event()
        self._may_have_more = dict.fromkeys(lanes, True)
        self._next_due: dict[str, float | None] = {}
        self._poll_s = _POLL_MIN_S
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False
        self._is_failing = False
        self._progress_shown_at = 0.0
        self._progress_seen: dict[str, Any] = {}
        self.waiting: dict[str, int] = dict.fromkeys(lanes, 0)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._claim_loop(), name="claimer"),
            loop.create_task(self._listen(), name="claimer-wake"),
            loop.create_task(self._tend(), name="claimer-aborts"),
        ]

    async def stop(self) -> None:
        """Claim nothing more, and give back what was claimed and not started."""
        self._is_stopping = True
        await end_tasks(self._tasks)
        leases = []
        for lane in self._lanes.values():
            for job in list(lane.queue):
                lane.queue.withdraw(job)
                self._watched.put_back(job)
                lease = self._store.leases.held.get(job.id)
                if lease is not None:
                    leases.append(lease)
        try:
            await self._store.release(leases)
        except REDIS_ERRORS as error:
            logger.warning(
                "%d claimed jobs could not be given back (%s); they run again when their leases "
                "have ended",
                len(leases),
                error,
            )

    def has_room(self) -> None:
        """A slot may be free: look where there may be more."""
        self._news.set()

    def wake(self) -> None:
        """Look into every queue now."""
        for name in self._may_have_more:
            self._may_have_more[name] = True
        self._poll_s = _POLL_MIN_S
        self._news.set()

    async def wait_drained(self) -> None:
        """Wait until nothing runs and the queues hold only what other workers have to do."""
        while True:
            await self._draining.wait_idle()
            if self.is_spent and self._store.ends.are_written:
                return
            try:
                if await self._is_drained():
                    return
            except REDIS_ERRORS as error:
                logger.warning("the queues cannot be counted: %s", error)
            await asyncio.sleep(min(0.05, self._poll_max_s))

    @property
    def is_spent(self) -> bool:
        """Whether as many jobs were claimed as were to be."""
        return self._jobs_max is not None and self._store.claimed_count >= self._jobs_max

    async def _is_drained(self) -> bool:
        store = self._store
        if not store.ends.are_written or store.leases.held:
            return False
        return not await store.has_work(self._lanes)

    # Claim

    async def _claim_loop(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while not self._is_stopping:
            self._news.clear()
            try:
                found = await self._claim_round()
            except REDIS_ERRORS as error:
                self._report_failure(error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(_BACKOFF_MAX_S, backoff_s * 2)
                self.wake()
                continue
            except Exception:
                logger.exception("a claim went wrong; trying again")
                await asyncio.sleep(_BACKOFF_MAX_S)
                continue
            backoff_s = _BACKOFF_FIRST_S
            if self._is_failing:
                self._is_failing = False
                logger.warning("jobs are claimed from Redis again")
            if found:
                self._poll_s = _POLL_MIN_S
                await asyncio.sleep(0)  # let what was claimed start before the next look
            else:
                await self._wait_for_news()

    def _report_failure(self, error: Exception) -> None:
        if not is_passing(error):
            logger.error("jobs cannot be claimed: %s", error)
        elif not self._is_failing:
            logger.warning("jobs cannot be claimed, trying again: %s", error)
        self._is_failing = True

    async def _claim_round(self) -> int:
        found = 0
        for lane in self._lanes.values():
            limit = self._room(lane)
            if limit <= 0 or not self._may_have_more[lane.name]:
                continue
            self._may_have_more[lane.name] = False  # before the claim: a wake meanwhile counts
            claims = await self._store.claim(lane.name, limit)
            if claims.is_late:
                logger.warning("Redis is back: results and leases of living workers go first")
                await asyncio.sleep(_OTHERS_FIRST_S)
                self.wake()
                continue
            self.waiting[lane.name] = claims.waiting
            self._next_due[lane.name] = claims.next_due
            if len(claims.jobs) >= limit:
                self._may_have_more[lane.name] = True
            found += len(claims.jobs)
            if claims.jobs:
                # What is put back and claimed again by this very process: first the one is shown.
                await self._store.outbox.told({claimed.lease.job_id for claimed in claims.jobs})
                await self._claimed.admit(lane, claims.jobs)
        return found

    def _room(self, lane: Lane) -> int:
        if self._dispatcher.is_quiet or lane.is_paused:
            return 0
        free = lane.concurrency - lane.busy - lane.queue.waiting - self._store.ends.in_slots
        ends = self._store.ends
        if ends.attempt_mean_s < _SHORT_ATTEMPT_S and not ends.in_slots:
            free += lane.concurrency
        if self._jobs_max is not None:
            free = min(free, self._jobs_max - self._store.claimed_count)
        return min(free, _CLAIM_MAX)

    async def _wait_for_news(self) -> None:
        now = self._clock.wall()
        wait_s = self._poll_s
        due = [at for at in self._next_due.values() if at is not None]
        if due and any(self._room(lane) > 0 for lane in self._lanes.values()):
            wait_s = min(wait_s, max(0.0, min(due) - now))
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            self._poll_s = min(self._poll_max_s, self._poll_s * 1.5)
            for name in self._may_have_more:
                self._may_have_more[name] = True

    async def _listen(self) -> None:
        """The poll goes on while nothing can be heard."""
        keys = [key for name in self._lanes for _, key in self._store.keys(name)]
        await self._store.signals.listen(keys, on_work=self.wake, on_abort=self._aborts_news.set)

    # Aborts and progress

    async def _tend(self) -> None:
        while True:
            try:
                async with asyncio.timeout(min(POLL_MAX_S, self._poll_max_s)):
                    await self._aborts_news.wait()
            except TimeoutError:
                pass
            self._aborts_news.clear()
            try:
                if self._aborts:
                    await self._store.signals.obey_aborts(self._table.jobs.get, self._abort)
                await self._show_progress()
            except REDIS_ERRORS:
                pass  # the claim loop says so
            except Exception:
                logger.exception("a look for aborts went wrong; trying again")

    def _abort(self, job: Job) -> None:
        self._claimed.cancel(job, "aborted")

    async def _show_progress(self) -> None:
        now = self._clock.monotonic()
        if now - self._progress_shown_at < _PROGRESS_EVERY_S:
            return
        self._progress_shown_at = now
        changed: list[Job] = []
        seen: dict[str, Any] = {}
        for job_id in self._store.leases.held:
            job = self._table.jobs.get(job_id)
            if job is not None and job.activity is not None:
                seen[job_id] = job.activity.progress
                if self._progress_seen.get(job_id) is not job.activity.progress:
                    changed.append(job)
        self._progress_seen = seen
        if changed:
            await self._store.lookup.show_progress(changed)

    def lost(self, job_ids: Sequence[str]) -> None:
        """Somebody else holds these jobs: what runs here no longer counts."""
        for job_id in job_ids:
            job = self._table.jobs.get(job_id)
            if job is None:
                continue
            logger.warning("job %s: its lease was lost; stopping its attempt", job_id)
            if job.state is RUNNING:
                slot = self._dispatcher.slot_of(job)
                if slot is not None:
                    slot.request_stop(StopReason.SHUTDOWN)
            else:
                self._dispatcher.withdraw(job)
                self._watched.put_back(job)
