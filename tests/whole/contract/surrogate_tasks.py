"""Tasks with half a surrogate pair in everything they say."""

from __future__ import annotations

import asyncio

from worker_runtime.model.activity import Counts
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import task

HALF = "a\ud800b"


async def echo(text: str) -> str:
    return text


async def give() -> str:
    return HALF


@task(domain="compute")
async def compute(text: str) -> None:
    pass


async def hang() -> None:
    await asyncio.Event().wait()


async def tell(ctx: JobContext) -> None:
    _tell(ctx)


def tell_in_a_thread(ctx: JobContext) -> None:
    _tell(ctx)


@task(run_in="process")
def tell_in_a_child(ctx: JobContext) -> None:
    _tell(ctx)


def _tell(ctx: JobContext) -> None:
    ctx.report(1, 2, step=HALF, counts=Counts(item=HALF))
    ctx.record_metric(HALF, 1.0)


async def fail() -> None:
    _fail()


def fail_in_a_thread() -> None:
    _fail()


@task(run_in="process")
def fail_in_a_child() -> None:
    _fail()


def _fail() -> None:
    error = ValueError(HALF)
    error.add_note(HALF)
    raise error


echo.__doc__ = f"It says {HALF}."
