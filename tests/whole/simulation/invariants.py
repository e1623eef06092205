"""What holds at every moment, whatever was asked of a runtime and wherever its jobs are stored."""

from __future__ import annotations

from collections.abc import Iterable

from tests.whole.simulation.reference import ENDED, Reference
from worker_runtime import Event, Runtime, State

# From -> to. None: the job did not exist. Ended jobs run again only when somebody asks.
LEGAL: dict[State | None, set[State]] = {
    None: {State.SCHEDULED, State.QUEUED},
    State.SCHEDULED: {State.QUEUED, State.CANCELLED},
    State.QUEUED: {State.RUNNING, State.CANCELLED, State.FAILED},
    State.RUNNING: {State.SCHEDULED, State.QUEUED, *ENDED},
    State.COMPLETED: set(),
    State.FAILED: {State.QUEUED},
    State.CANCELLED: {State.QUEUED},
}


def check_every_job_is_as_expected(runtime: Runtime, reference: Reference) -> None:
    """What was accepted is kept and is in the predicted state; nothing else is there."""
    jobs = runtime.parts.table.jobs
    found = {job.id: (job.state, job.attempt) for job in jobs.values()}
    assert found == {job.id: (job.state, job.attempt) for job in reference.jobs.values()}


def check_jobs_ran_in_the_predicted_order(
    started: list[tuple[str, int]], running: Iterable[str], reference: Reference
) -> None:
    assert started == reference.started
    assert sorted(running) == sorted(job.id for job in reference.running)


def check_counts_agree(runtime: Runtime, reference: Reference) -> None:
    info = runtime.queue_info("default")
    assert info.waiting == len(reference.waiting)
    assert info.running == len(reference.running)
    assert info.paused == reference.is_paused


def check_bounds_hold(runtime: Runtime) -> None:
    """Jobs that run again wait without asking for room, but they had it once."""
    info = runtime.queue_info("default")
    assert info.running <= info.concurrency
    assert info.waiting + info.running <= info.capacity + info.concurrency


def check_results_are_right(runtime: Runtime, reference: Reference) -> None:
    for expected in reference.of_state(State.COMPLETED):
        assert runtime.parts.table.jobs[expected.id].result == expected.payload


def check_times_are_in_order(runtime: Runtime) -> None:
    for job in runtime.parts.table.jobs.values():
        assert (job.ended_at is not None) == (job.state in ENDED)
        if job.state is State.RUNNING:
            assert job.started_at is not None
        if job.started_at is not None and job.ended_at is not None:
            assert job.started_at <= job.ended_at


def check_transitions_are_legal(events: Iterable[Event]) -> None:
    state: dict[str, State] = {}
    for event in events:
        before = state.get(event.job_id)
        assert event.state in LEGAL[before], f"{event.job_id}: {before} to {event.state}"
        state[event.job_id] = event.state


def check_events_end_in_the_states_shown(events: Iterable[Event], runtime: Runtime) -> None:
    last = {event.job_id: event.state for event in events}
    assert last == {job.id: job.state for job in runtime.parts.table.jobs.values()}
