"""Accept a call as a job, or refuse it: nothing accepted is lost, nothing refused runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from worker_runtime.acceptance.options import EnqueueOptions
from worker_runtime.acceptance.unique_keys import UniqueKeys
from worker_runtime.clock.source import Clock
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.events import EventHub
from worker_runtime.engine.expiry import Expiry
from worker_runtime.engine.held import HeldJobs
from worker_runtime.engine.slots import Lane
from worker_runtime.engine.table import JobTable
from worker_runtime.errors import (
    InvalidArguments,
    InvalidJob,
    JobConflict,
    QueueFull,
    ShuttingDown,
    UnknownQueue,
)
from worker_runtime.model.job import Job
from worker_runtime.model.job_id import JobIds, check_job_id
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.uniqueness import Uniqueness
from worker_runtime.model.values.copying import private_arguments
from worker_runtime.model.values.sameness import is_same
from worker_runtime.services.forecast import Forecast
from worker_runtime.services.overload import OverloadControl

PLAIN = EnqueueOptions()


class Intake:
    """Makes jobs and hands them to the dispatcher.

    Guarantees: a job is in the table before it is in a queue; a known id is never a second job.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        table: JobTable,
        dispatcher: Dispatcher,
        events: EventHub,
        clock: Clock,
        forecast: Forecast,
        overload: OverloadControl,
        held: HeldJobs,
        unique_keys: UniqueKeys,
        expiry: Expiry,
    ) -> None:
        self.held = held
        self.unique_keys = unique_keys
        self._clock = clock
        self._wall = clock.wall
        self._registry = registry
        self._table = table
        self._dispatcher = dispatcher
        self._lanes = dispatcher.lanes
        self._events = events
        self._ids = JobIds()
        # For `accept`, where each look through an attribute counts.
        self._make_id = self._ids.make
        self._monotonic = clock.monotonic
        self._known = registry.known
        self._jobs = table.jobs
        self._subscriptions = events.subscriptions
        self._order = 0
        self.is_open = False
        self._forecast = forecast
        self._overload = overload
        self._is_limited = overload.has_limits
        self._expiry = expiry

    def accept(
        self,
        task: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: EnqueueOptions = PLAIN,
    ) -> Job:
        """Make and admit a job at once: the usual ways in. Assumes `is_simple`. Raises Refused.

        The same steps as `make`, `check_room` and `admit`, with what is not simple left out.
        """
        try:
            definition = self._known[task]
        except (KeyError, TypeError):
            definition = self._registry.find(task)
        signature = definition.signature
        if args or kwargs or not signature.nothing_required:
            try:
                args, named = signature.bind(args, kwargs, wire=options.wire)
            except InvalidArguments as error:
                raise InvalidArguments(f"task {definition.name}: {error}") from None
        else:
            named = None
        queue = definition.queue
        lane = self._lanes[queue]
        self._order = order = self._order + 1
        monotonic = self._monotonic
        now = monotonic() + self._clock.offset_s
        job_id = self._make_id(now) if options.job_id is None else check_job_id(options.job_id)
        job = Job(job_id, definition, args, named, queue, definition.priority, order, now)
        if options is not PLAIN:
            if options.priority is not None:
                job.priority = options.priority
            job.options = options.overrides
            job.must_encode = options.must_encode
        if (
            lane.queue.waiting >= lane.capacity
            or self._is_limited
            or not self.is_open
            or (
                job.options is not None
                and (job.options.expires_at is not None or job.options.key is not None)
            )
        ):
            self.check_room(job)
            _check_turns(lane, job.options)
            self._dispatcher.prepare(lane, job)
        self._jobs[job_id] = job
        definition.tally.accepted += 1
        if self._subscriptions:
            self._events.emit(job, now)
        lane.queue.push(job)
        if lane.busy < lane.concurrency:
            self._dispatcher.wake(lane)
        return job

    def is_simple(self, options: EnqueueOptions) -> bool:
        """Whether nothing has to be looked up before a job with these options is admitted, and it
        can run as soon as it is."""
        job_id = options.job_id
        return (
            (job_id is None or (isinstance(job_id, str) and job_id not in self._jobs))
            and options.queue is None
            and options.due_at is None
            and options.unique is None
            and not options.parents
        )

    def make(
        self,
        task: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions = PLAIN,
    ) -> Job:
        """A checked job that is not accepted yet. Raises Refused."""
        definition = self._registry.find(task)
        overrides = options.overrides
        if overrides is not None and overrides.takes_results:
            # Checked when the result they lack is there.
            bound, named = private_arguments(args, kwargs or None)
        else:
            try:
                bound, named = definition.signature.bind(args, kwargs, wire=options.wire)
            except InvalidArguments as error:
                raise InvalidArguments(f"task {definition.name}: {error}") from None
        now = self._wall()
        if options is PLAIN:
            job_id, queue, priority = self._ids.make(now), definition.queue, definition.priority
        else:
            queue = options.queue or definition.queue
            if queue not in self._lanes:
                names = ", ".join(self._dispatcher.lanes)
                raise UnknownQueue(f"no queue {queue[:128]!r}; queues: {names}")
            _check_turns(self._lanes[queue], overrides)
            priority = definition.priority if options.priority is None else options.priority
            job_id = self._ids.make(now) if options.job_id is None else check_job_id(options.job_id)
        self._order = order = self._order + 1
        return Job(
            job_id,
            definition,
            bound,
            named,
            queue,
            priority,
            order,
            now,
            due_at=options.due_at or 0.0,
            options=overrides,
            must_encode=options.must_encode,
        )

    def is_known(self, job_id: str) -> bool:
        return self._table.get(job_id) is not None

    def existing(self, job: Job) -> Job | None:
        """The kept job with the same id, if its payload is the same too. Raises JobConflict."""
        known = self._table.get(job.id)
        if known is not None:
            self.check_same(known, job)
        return known

    def holder(self, unique: Uniqueness) -> Job | None:
        """The job in memory that has the unique key; None where there is none."""
        return self.unique_keys.holder(unique, self._wall())

    def check_same(self, known: Job, job: Job) -> None:
        """Raises JobConflict unless `job` asks for the same as the kept job of its id."""
        if not same_payload(known, job):
            raise JobConflict(f"job id {job.id!r} is in use by a job with another payload")

    def check_open(self) -> None:
        """Raises ShuttingDown."""
        if not self.is_open:
            raise ShuttingDown(
                "this worker accepts no new jobs: it is stopping or not started", retry_after_s=5.0
            )

    def check_room(self, job: Job, count: int = 1) -> None:
        """Raises ShuttingDown, QueueFull, or what overload control says."""
        self.check_open()
        lane = self._lanes[job.queue]
        waiting = lane.queue.waiting
        if waiting + count > lane.capacity:
            is_due = not job.due_at or job.is_ended  # one that is brought back runs at once
            free = lane.concurrency - lane.busy if is_due and not lane.is_paused else 0
            if waiting + count - free > lane.capacity:
                raise QueueFull(
                    f"queue {lane.name!r} is full: {waiting} jobs wait, {lane.capacity} may",
                    retry_after_s=self._forecast.retry_after_s(lane),
                    position=lane.queue.ahead_of(job.priority) + 1,
                    predicted_wait_s=self._forecast.guess_s(lane, job.priority),
                )
        if self._is_limited or job.options is not None:
            self._overload.check(job, lane)

    def admit(self, job: Job, parents: Sequence[Job] = (), *, is_stored: bool = False) -> None:
        """Keep the job in the table and let it run, after its parents if it has any. `is_stored`:
        the store knows it by its place in line already."""
        if not is_stored:  # others may have been admitted since it was made
            self._order = job.order = self._order + 1
        self._table.jobs[job.id] = job
        job.task.tally.accepted += 1
        if job.options is not None and job.options.unique_key is not None:
            self.unique_keys.claim(job.options.unique_key, job)
        if parents:
            self.held.hold(job, parents)
        else:
            self._dispatcher.submit(job)

    def announce(self, job: Job) -> None:
        """Count a job that was accepted into a store which hands it out, and tell of it."""
        job.task.tally.accepted += 1
        if self._subscriptions:
            self._events.emit(job, job.created_at)

    def retract(self, jobs: Sequence[Job]) -> None:
        """Undo `admit`: the store could not keep these jobs, so that they were not accepted."""
        for job in jobs:
            job.task.tally.accepted -= 1
            if not job.is_ended:
                self._dispatcher.refuse(job, is_held=self.held.withdraw(job))
            self._table.forget(job)

    def continue_after(self, order: int) -> None:
        """Give new jobs places in line after those that earlier lives gave."""
        self._order = max(self._order, order)

    def restore(self, job: Job) -> bool:
        """Take up a job that an earlier life accepted. A parked one is kept and does not run; one
        whose queue is gone waits in its task's. False: it has parents, and is the caller's to hold.
        """
        if job.queue not in self._dispatcher.lanes:
            job.queue = job.task.queue
        self._table.jobs[job.id] = job
        if job.options is not None and job.options.unique_key is not None:
            self.unique_keys.claim(job.options.unique_key, job)
        if job.task.is_parked:
            self._expiry.watch(job, _stands_nowhere)
            return True
        if job.options is not None and job.options.after:
            return False
        self._dispatcher.submit(job)
        return True

    def check_room_for(self, jobs: Sequence[Job]) -> None:
        """`check_room` for all of them together."""
        per_queue = Counter(job.queue for job in jobs)
        for job in jobs:
            count = per_queue.pop(job.queue, 0)
            if count:
                self.check_room(job, count)

    def new_id(self) -> str:
        return self._ids.make(self._wall())


def _check_turns(lane: Lane, options: JobOptions | None) -> None:
    """Raises InvalidJob for a key where keys cannot take turns."""
    if options is not None and options.key is not None and not lane.queue.can_take_turns:
        raise InvalidJob(f"key does not work in queue {lane.name!r}, whose jobs age; leave it out")


def _stands_nowhere(job: Job) -> None:
    """A parked job is in no line that it could be taken out of."""


def same_payload(one: Job, other: Job) -> bool:
    """Whether two jobs are the same call."""
    if one.task.name != other.task.name:
        return False
    canonical = one.task.signature.canonical
    return is_same(canonical(one.args, one.kwargs), canonical(other.args, other.kwargs))
