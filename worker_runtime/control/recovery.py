"""Take up what an earlier life of the process left unfinished in the store."""

from __future__ import annotations

import logging

from worker_runtime.acceptance.intake import Intake
from worker_runtime.control.inspection import Inspection
from worker_runtime.errors import UnknownJob
from worker_runtime.model.job import Job
from worker_runtime.stores.boundary import Store

logger = logging.getLogger("worker_runtime")


async def recover(store: Store, intake: Intake, inspection: Inspection) -> None:
    """Bring back every unfinished job, in its old order; before anything new is accepted."""
    intake.continue_after(store.last_order)
    count = 0
    children: list[Job] = []
    async for jobs in store.recover():
        count += len(jobs)
        children += [job for job in jobs if not intake.restore(job)]
    for job in children:  # once all their parents are there
        await _hold_again(job, intake, inspection)
    if count:
        logger.info("recovered %d unfinished jobs", count)


async def _hold_again(job: Job, intake: Intake, inspection: Inspection) -> None:
    """Hold a job for those it comes after; ended ones bring their results. One that is not kept any
    more is missed only where its result is needed: had it not completed, the job would have been
    cancelled with it."""
    assert job.options is not None
    parents: list[Job] = []
    for parent_id in job.options.after:
        try:
            parents.append(await inspection.job(parent_id))
        except UnknownJob:
            if job.options.takes_results:
                intake.held.orphan(job, parent_id)
                return
    intake.held.hold(job, parents)
