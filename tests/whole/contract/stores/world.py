"""Tasks that write down what they did; one set of them for each test."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec

from tests.whole.contract.stores.places import Place
from worker_runtime import JobContext, Retry, RunAgain, Runtime, task

AT_ONCE = Retry(max_attempts=3, delay_s=0.001, jitter=0)


class Colour(enum.Enum):
    RED = "red"


class Order(msgspec.Struct):
    day: date
    colour: Colour


class World:
    """What the tasks did.

    runs   attempts, by job
    order  what `note` was called with, in this order
    gate   `hold` ends when it is set
    """

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.order: list[Any] = []
        self.seen: list[Any] = []
        self.gate = asyncio.Event()

    def runtime(self, place: Place, **options: Any) -> Runtime:
        options.setdefault("concurrency", 4)
        return place.runtime(self.tasks(), **options)

    def tasks(self) -> list[Callable[..., Any]]:
        return [*self._calm(), *self._troubled()]

    def _calm(self) -> list[Callable[..., Any]]:
        world = self

        @task
        async def note(value: Any) -> Any:
            world.order.append(value)
            return value

        @task(queue="mail")
        async def post(value: str) -> str:
            world.order.append(value)
            return value

        @task
        async def place(order: Order) -> Order:
            world.seen.append(order)
            return order

        @task
        async def odd() -> object:
            return object()

        @task
        def in_thread(a: int, b: int) -> int:
            return a + b

        return [note, post, place, odd, in_thread]

    def _troubled(self) -> list[Callable[..., Any]]:
        world = self

        @task
        async def hold(ctx: JobContext) -> str:
            world.runs[ctx.job_id] += 1
            ctx.report(1, 4, step="holding")
            await world.gate.wait()
            return ctx.job_id

        @task(on_crash="fail")
        async def fragile(ctx: JobContext) -> None:
            world.runs[ctx.job_id] += 1
            await world.gate.wait()

        @task(retry=AT_ONCE)
        async def fail(ctx: JobContext, times: int) -> int:
            world.runs[ctx.job_id] += 1
            if world.runs[ctx.job_id] <= times:
                raise ValueError(f"failure {world.runs[ctx.job_id]}")
            return ctx.attempt

        @task(retry=AT_ONCE)
        async def stumble(ctx: JobContext) -> int:
            world.runs[ctx.job_id] += 1
            await world.gate.wait()
            if ctx.attempt == 1:
                raise ValueError("once")
            return ctx.attempt

        @task
        async def again(ctx: JobContext) -> int:
            world.runs[ctx.job_id] += 1
            if world.runs[ctx.job_id] < 3:
                raise RunAgain(0.001)
            return ctx.attempt

        return [hold, fragile, fail, stumble, again]

    async def running(self, job_id: str, times: int = 1) -> None:
        """Wait until the job has been started so often."""
        while self.runs[job_id] < times:
            await asyncio.sleep(0.001)
