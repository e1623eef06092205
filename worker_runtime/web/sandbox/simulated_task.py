"""The sandbox's own work, simulated: the task that is served where no other is given."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from worker_runtime.clock.source import SYSTEM, Clock
from worker_runtime.model.tasks.definition import TaskDefinition, task
from worker_runtime.settings import Settings

TASK_NAME = "task"
_SLEEP_MAX_S = 3600.0


class SimulatedFailure(Exception):
    """The roll for failure came out against this job."""


class SimulatedTask:
    """The sandbox's work: sleep `response_delay_ms` times the weight, then fail with a probability
    of `failure_rate`. Both may be changed while jobs run; a job reads them when it starts.

    A weight of 0 or less counts as 1, as in the sandbox's Go worker.
    """

    def __init__(self, clock: Clock, *, response_delay_ms: int, failure_rate: float) -> None:
        self._monotonic = clock.monotonic
        self.response_delay_ms = response_delay_ms
        self.failure_rate = failure_rate

    async def __call__(self, id: str = "", weight: float = 1.0) -> None:
        failure_rate = self.failure_rate
        delay_s = self.response_delay_ms / 1000 * (weight if weight > 0 else 1.0)
        await self._sleep_in_full(min(delay_s, _SLEEP_MAX_S))
        if random.random() < failure_rate:
            raise SimulatedFailure("Simulated failure")

    async def _sleep_in_full(self, seconds: float) -> None:
        """An event loop reckons from when its turn began, and may wake a sleeper up too early."""
        ends_at = self._monotonic() + seconds
        await asyncio.sleep(seconds)
        while (left_s := ends_at - self._monotonic()) > 0:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(max(left_s, 0.001))


def builtin_tasks(settings: Settings, clock: Clock = SYSTEM) -> list[Callable[..., Any]]:
    """The task that is served where none is given, as `settings` wants it."""
    return [task(name=TASK_NAME)(_simulated(settings, clock))]


def simulation_of(
    registered: TaskDefinition | None, settings: Settings, clock: Clock
) -> SimulatedTask:
    """The simulated work that the registered task does. Where it does other work, one that nobody
    runs: it remembers what it is told."""
    fn = None if registered is None else registered.fn
    return fn if isinstance(fn, SimulatedTask) else _simulated(settings, clock)


def _simulated(settings: Settings, clock: Clock) -> SimulatedTask:
    return SimulatedTask(
        clock, response_delay_ms=settings.response_delay_ms, failure_rate=settings.failure_rate
    )
