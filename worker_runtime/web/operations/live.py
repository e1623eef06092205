"""The operations that this worker is busy with, and how its stop leaves them.

A backend's registry knows one operation per worker: `current` is the one it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from worker_runtime.errors import Unavailable
from worker_runtime.model.job import Job
from worker_runtime.model.states import CANCELLED
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.runtime import Runtime

logger = logging.getLogger("worker_runtime.operations")


class LiveOperations:
    """Counts an operation from its start until its end, and calls `on_ended` with it then.

    starting        the id of one that the store is asked to keep: nobody else starts meanwhile
    has_ended_late  one has ended, other than by a cancel, after the worker began to stop
    """

    def __init__(
        self,
        runtime: Runtime,
        domains: Mapping[str, TaskDefinition],
        on_ended: Callable[[Job], None],
    ) -> None:
        self._runtime = runtime
        self._domains = domains
        self._on_ended = on_ended
        self._queues = sorted({task.queue for task in domains.values()})
        self._followed: dict[str, Job] = {}
        self._cut_short: list[str] = []
        self.starting: str | None = None
        self.has_ended_late = False

    def open(self) -> None:
        """Count those that an earlier life of this worker was asked for."""
        for job in self._runtime.doorway.jobs_here():
            if job.task.domain in self._domains and not job.is_ended:
                self.follow(job)

    def follow(self, job: Job) -> None:
        """Count the operation as this worker's until it ends, and note its end."""
        self._followed[job.id] = job
        try:
            self._runtime.doorway.wait(job).add_done_callback(partial(self._ended, job))
        except Unavailable as error:  # it is accepted all the same; only its end goes unnoticed
            logger.warning("operation %s is not watched: %s", job.id, error)

    def count(self) -> int:
        """How many wait or run."""
        return sum(1 for _ in self._active())

    def current(self) -> str | None:
        """The newest operation that this worker is busy with. One whose work has not noticed its
        cancel yet counts: another beside it would be a second one."""
        newest = None
        for job in self._active():
            if newest is None or job.order > newest.order:
                newest = job
        return self.starting if newest is None else newest.id

    def unfinished(self) -> list[str]:
        """What the stop interrupted has ended by now, or waits in the store for the next life."""
        return [*self._cut_short, *self._followed]

    def _ended(self, job: Job, ended: Any) -> None:
        if ended.cancelled() or ended.exception() is not None:  # the worker stops before the job
            return
        self._followed.pop(job.id, None)
        if not self._runtime.is_accepting:
            if job.state is CANCELLED:
                self._cut_short.append(job.id)
            else:
                self.has_ended_late = True
        self._on_ended(job)

    def _active(self) -> Iterator[Job]:
        """Operations that wait or run, also those that came through another door."""
        for job in self._followed.values():
            if not job.is_ended:
                yield job
        for queue in self._queues:
            for job in self._runtime.doorway.running_jobs(queue):
                if job.task.domain in self._domains and job.id not in self._followed:
                    yield job
