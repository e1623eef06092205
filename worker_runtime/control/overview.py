"""Looking at the whole runtime: what its parts count and measure, read at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from worker_runtime.acceptance.intake import Intake
from worker_runtime.control.queues import QueueControl
from worker_runtime.engine.dispatcher import Dispatcher
from worker_runtime.engine.finisher import Finisher
from worker_runtime.engine.table import JobTable
from worker_runtime.executors import Executor
from worker_runtime.model.figures import ExecutorStatistics, JobStatistics, RuntimeStatistics
from worker_runtime.model.registry import TaskRegistry
from worker_runtime.services.watchdog import Watchdog
from worker_runtime.stores.boundary import Store


class Overview:
    """Reads the figures that the parts keep; keeps none itself."""

    def __init__(
        self,
        *,
        registry: TaskRegistry,
        intake: Intake,
        queues: QueueControl,
        dispatcher: Dispatcher,
        finisher: Finisher,
        table: JobTable,
        executors: Mapping[str, Executor],
        store: Store,
        watchdog: Watchdog,
    ) -> None:
        self._registry = registry
        self._intake = intake
        self._queues = queues
        self._dispatcher = dispatcher
        self._finisher = finisher
        self._table = table
        self._executors = executors
        self._store = store
        self._watchdog = watchdog

    def statistics(self) -> RuntimeStatistics:
        """See `Runtime.statistics`."""
        return RuntimeStatistics(
            accepting=self._intake.is_open,
            jobs=self._jobs(),
            queues=self._queues.statistics(),
            executors={name: _executor(each) for name, each in self._executors.items()},
            store=self._store.statistics(),
            history_count=self._table.ended_count,
            waiters=self._table.waiting_count,
            abandoned=self._dispatcher.abandoned_count,
            loop_lag_s=self._watchdog.lag_s,
            loop_blocked_count=self._watchdog.blocked_count,
        )

    def _jobs(self) -> JobStatistics:
        tallies = [task.tally for task in self._registry]
        return JobStatistics(
            accepted=sum(tally.accepted for tally in tallies),
            completed=sum(tally.completed for tally in tallies),
            failed=sum(sum(tally.failed.values()) for tally in tallies),
            cancelled=sum(tally.cancelled for tally in tallies),
            requeued=sum(tally.retried for tally in tallies),
            interrupted=self._finisher.interrupted_count,
        )


def _executor(executor: Executor) -> ExecutorStatistics:
    figures = executor.statistics()
    return ExecutorStatistics(
        figures["size"], figures["busy"], figures["waiting"], figures["abandoned"]
    )
