"""Tasks to try a worker with, served where no TARGET is given: one that waits, one that computes in
the event loop, one that computes for long in a thread and can be watched and stopped, and one in a
child process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import task

_NUMBERS_PER_REPORT = 2_000


@task
async def sleep(seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)]) -> float:
    """Wait for `seconds`, and return them."""
    await asyncio.sleep(seconds)
    return seconds


@task
async def add(a: float, b: float) -> float:
    """The sum of two numbers."""
    return a + b


@task(run_in="thread")
def count_primes(ctx: JobContext, below: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]) -> int:
    """How many primes there are below a number, by trial division. Reports as it goes."""
    primes: list[int] = []
    for number in range(2, below):
        if _has_no_divisor(number, primes):
            primes.append(number)
        if number % _NUMBERS_PER_REPORT == 0:
            ctx.raise_if_cancelled()
            ctx.report(number, below, step=f"{len(primes)} primes below {number}")
    return len(primes)


@task(run_in="process", timeout_s=300)
def digest(text: str, rounds: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]) -> str:
    """SHA-256 over and over, in a child process: it is killed where it runs too long."""
    value = text.encode()
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()


def _has_no_divisor(number: int, primes: list[int]) -> bool:
    for prime in primes:
        if prime * prime > number:
            return True
        if number % prime == 0:
            return False
    return True


EXAMPLE_TASKS: tuple[Callable[..., Any], ...] = (sleep, add, count_primes, digest)


def commands_to_try(url: str, *, with_token: bool = False) -> list[str]:
    """Three shell commands that give a worker with these tasks something to do."""
    token = ' -H "Authorization: Bearer $WORKER_TOKEN"' if with_token else ""
    post = f"curl -s{token} -H 'Content-Type: application/json'"
    return [
        f'  {post} \'{url}/v1/jobs?wait_s=5\' -d \'{{"task": "add", "args": [2, 3]}}\'',
        f'  {post} \'{url}/v1/jobs\' -d \'{{"task": "count_primes", "args": [300000]}}\'',
        f"  curl -s{token} '{url}/v1/jobs?limit=5'",
    ]
