"""The table of jobs by id: live ones, those who wait for them, and a bounded history of ended ones.

This is the memory store: with it alone, an accepted job lives as long as the process.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice

from worker_runtime.clock.source import Clock
from worker_runtime.errors import ShuttingDown, Unavailable
from worker_runtime.model.job import Job, ttl_of

logger = logging.getLogger("worker_runtime.jobs")

_PRUNED_AT_A_TIME = 1000
_COMPACT_AT_LEAST = 64


class JobTable:
    """Jobs by id.

    Guarantees: an ended job stays findable until `history_count_max` others ended after it or its
    time to live passed, whichever is first; a job that has not ended is never dropped.
    """

    def __init__(
        self, clock: Clock, *, history_count_max: int, history_ttl_s: float, waiters_max: int
    ) -> None:
        self._wall = clock.wall
        self.jobs: dict[str, Job] = {}
        self._adopted: dict[str, Job] = {}  # of `jobs`, those that are not in order there
        self._history_count_max = history_count_max
        self._history_ttl_s = history_ttl_s
        self._waiters_max = waiters_max
        self._waiting = 0
        # In the order of their ends; those with a time to live of their own apart, and these once
        # more by when it passes, where an entry whose job has left is passed over.
        self._ended: deque[Job] = deque()
        self._ended_own: OrderedDict[str, Job] = OrderedDict()
        self._passing: list[tuple[float, int, str]] = []
        self._kept = 0

    @property
    def ended_count(self) -> int:
        return self._kept

    @property
    def waiting_count(self) -> int:
        """Callers that wait for a job."""
        return self._waiting

    def get(self, job_id: str) -> Job | None:
        job = self.jobs.get(job_id)
        if job is not None and job.ended_at is not None and self._has_passed(job, self._wall()):
            self.forget(job)
            return None
        return job

    def adopt(self, job: Job) -> None:
        """Take in an ended job that came from a store, because it is going to run again."""
        if job.id not in self.jobs:
            self.jobs[job.id] = self._adopted[job.id] = job

    def wait(self, job: Job) -> asyncio.Future[None]:
        """A future that ends when `job` has ended. Who stops waiting before that says so with
        `stop_waiting`: a callback on each future would cost more than the wait.

        Raises Unavailable where too many wait already.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if job.ended_at is not None:
            future.set_result(None)
            return future
        if self._waiting >= self._waiters_max:
            raise Unavailable(f"{self._waiting} callers already wait for a job, the most allowed")
        if job.waiters is None:
            job.waiters = [future]
        else:
            job.waiters.append(future)
        self._waiting += 1
        return future

    def wait_uncounted(self, job: Job) -> asyncio.Future[None]:
        """`wait` for the runtime's own parts, which do not count among the callers that wait."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job.waiters = [*(job.waiters or ()), future]
        future.add_done_callback(self._not_counted)
        return future

    def _not_counted(self, _: asyncio.Future[None]) -> None:
        self._waiting += 1  # whoever ended it has counted one waiter less

    def stop_waiting(self, job: Job, future: asyncio.Future[None]) -> None:
        """Give back a future of `wait`. Harmless for one that has ended."""
        if job.waiters is not None and future in job.waiters:
            job.waiters.remove(future)
            self._waiting -= 1

    def retire(self, job: Job, ttl_s: float | None) -> None:
        """Move a job that has just ended into the history and wake who waits for it."""
        if job.waiters is not None:
            for future in job.waiters:
                if not future.done():
                    future.set_result(None)
            self._waiting -= len(job.waiters)
            job.waiters = None
        if ttl_s is None:
            self._ended.append(job)
        else:
            self._ended_own[job.id] = job
            heapq.heappush(self._passing, _entry_of(job, ttl_s))
        if self._kept < self._history_count_max:
            self._kept += 1
        elif not self._ended_own:
            oldest = self._ended.popleft()
            del self.jobs[oldest.id]
        else:
            self._drop_oldest()

    def wake(self, job: Job, error: Callable[[], Exception] | None = None) -> None:
        """Wake who waits for a job that has ended, as far as they can be woken; `error` makes what
        is raised in them where it has not."""
        waiters, job.waiters = job.waiters or (), None
        self._waiting -= len(waiters)
        for future in waiters:
            try:
                if future.done():
                    pass
                elif error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error())
            except Exception as fault:  # of its event loop, which is closed
                logger.warning("somebody who waits for job %s cannot be told: %s", job.id, fault)

    def settle(self, job: Job) -> None:
        """`retire` for a job of which that has failed part of the way."""
        self.wake(job)
        if self.jobs.get(job.id) is not job:
            return
        if job not in self._ended and self._ended_own.get(job.id) is not job:
            self.retire(job, ttl_of(job))
        self._kept = len(self._ended) + len(self._ended_own)
        while self._kept > self._history_count_max:
            if self._ended_own:
                self._drop_oldest()
            else:
                del self.jobs[self._ended.popleft().id]
            self._kept -= 1

    def revive(self, job: Job) -> None:
        """Take an ended job out of the history: it is going to run again."""
        if self._ended_own.get(job.id) is job:
            del self._ended_own[job.id]
            self._kept -= 1
            self._compact()
        elif job in self._ended:  # jobs compare by identity
            self._ended.remove(job)
            self._kept -= 1

    def release_waiters(self) -> None:
        """Tell those who wait for jobs that will not end in this process. Raises in them."""
        for job in self.jobs.values():
            self.release(job)

    def release(self, job: Job) -> None:
        """As `release_waiters`, for one job."""
        self.wake(job, functools.partial(_not_here, job))

    def forget(self, job: Job) -> None:
        """Drop a job that was never accepted, or an ended one that is to be deleted."""
        if job.ended_at is not None:
            self.revive(job)
        if self.jobs.get(job.id) is job:  # else a later claim of that job has its place
            del self.jobs[job.id]

    def prune(self, now: float) -> None:
        """Drop ended jobs whose time has passed, a bounded number at a time."""
        budget = _PRUNED_AT_A_TIME
        line, ttl_s = self._ended, self._history_ttl_s
        while line and budget and (line[0].ended_at or 0.0) + ttl_s < now:
            del self.jobs[line.popleft().id]
            self._kept -= 1
            budget -= 1
        passing = self._passing
        while passing and budget and passing[0][0] < now:
            entry = heapq.heappop(passing)
            if self._is_kept(entry):
                del self._ended_own[entry[2]], self.jobs[entry[2]]
                self._kept -= 1
                budget -= 1

    def listed(
        self, matches: Callable[[Job], bool], *, limit: int, below: int | None = None
    ) -> list[Job]:
        """Up to `limit` jobs that match, newest first, of those whose `order` is under `below`."""
        now = self._wall()
        self.prune(now)
        found = (
            job
            for job in self._by_order()
            if (below is None or job.order < below)
            and matches(job)
            and not self._has_passed(job, now)
        )
        return list(islice(found, limit))

    def _by_order(self) -> Iterator[Job]:
        """All jobs, newest first."""
        if not self._adopted:
            return reversed(self.jobs.values())
        adopted = {id: job for id, job in self._adopted.items() if self.jobs.get(id) is job}
        self._adopted = adopted
        in_order = (job for job in reversed(self.jobs.values()) if job.id not in adopted)
        returned = sorted(adopted.values(), key=_order_of, reverse=True)
        return heapq.merge(in_order, returned, key=_order_of, reverse=True)

    def _has_passed(self, job: Job, now: float) -> bool:
        if job.ended_at is None:
            return False
        ttl_s = ttl_of(job)
        return job.ended_at + (self._history_ttl_s if ttl_s is None else ttl_s) < now

    def _drop_oldest(self) -> None:
        first_own = next(iter(self._ended_own.values()))
        if self._ended and (self._ended[0].ended_at or 0.0) <= (first_own.ended_at or 0.0):
            oldest = self._ended.popleft()
        else:
            oldest = first_own
            del self._ended_own[oldest.id]
            self._compact()
        del self.jobs[oldest.id]

    def _is_kept(self, entry: tuple[float, int, str]) -> bool:
        """Whether this entry of `_passing` is the one of an ended job that is still kept."""
        job = self._ended_own.get(entry[2])
        return job is not None and _entry_of(job, ttl_of(job) or 0.0) == entry

    def _compact(self) -> None:
        """Keep `_passing` in proportion to the jobs that it is about."""
        if len(self._passing) > 2 * len(self._ended_own) + _COMPACT_AT_LEAST:
            self._passing = [_entry_of(job, ttl_of(job) or 0.0) for job in self._ended_own.values()]
            heapq.heapify(self._passing)


def _entry_of(job: Job, ttl_s: float) -> tuple[float, int, str]:
    """When the job's own time to live passes, and which job it is."""
    return (job.ended_at or 0.0) + ttl_s, job.order, job.id


def _not_here(job: Job) -> ShuttingDown:
    return ShuttingDown(f"the worker stopped; job {job.id} is kept and runs later")


def _order_of(job: Job) -> int:
    return job.order
