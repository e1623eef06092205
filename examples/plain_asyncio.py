"""A runtime in a plain asyncio program, without HTTP: python examples/plain_asyncio.py

Priorities, retries, delays, progress, cancelling, and how a refused job looks.
"""

from __future__ import annotations

import asyncio

from worker_runtime import (
    InvalidArguments,
    JobCancelled,
    JobContext,
    JobFailed,
    Priority,
    Retry,
    Runtime,
    call,
    task,
)

attempts_of_fetch = 0


@task
async def greet(name: str) -> str:
    return f"hello {name}"


@task(retry=Retry(max_attempts=3, delay_s=0.01))
async def fetch(url: str) -> int:
    """Fails twice, as networks do."""
    global attempts_of_fetch
    attempts_of_fetch += 1
    if attempts_of_fetch < 3:
        raise ConnectionError(f"{url} hung up")
    return 200


@task(run_in="thread")
def count_words(ctx: JobContext, lines: list[str]) -> int:
    """A sync function: it runs in a thread, reports progress and can be told to stop."""
    words = 0
    for number, line in enumerate(lines, start=1):
        ctx.raise_if_cancelled()
        words += len(line.split())
        ctx.report(number, len(lines), step=f"line {number}")
    return words


@task(timeout_s=0.05)
async def too_slow() -> None:
    await asyncio.sleep(60)


async def main() -> None:
    async with Runtime([greet, fetch, count_words, too_slow], concurrency=2) as runtime:
        job = await runtime.enqueue(greet, "world")
        print("greet:", await job.result(timeout_s=5))

        response = await runtime.enqueue(fetch, "https://example.org")
        print("fetch:", await response.result(timeout_s=5), "at attempt", response.job.attempt)

        counted = await runtime.enqueue(count_words, ["to be", "or not to be"])
        print("count_words:", await counted.result(timeout_s=5))
        progress = counted.info().progress
        if progress is not None:
            print("progress:", progress.percentage, progress.step)

        many = await runtime.enqueue_many(call(greet, name) for name in ("Ada", "Grace"))
        print("enqueue_many:", [await each.result(timeout_s=5) for each in many])

        urgent = runtime.options(priority=Priority.CRITICAL, job_id="mail:42")
        first = await urgent.enqueue(greet, "you")
        again = await urgent.enqueue(greet, "you")
        print("the same id is the same job:", first.id == again.id, first.is_new, again.is_new)

        later = await runtime.options(delay_s=3600).enqueue(greet, "tomorrow")
        print("cancelled before it was due:", await later.cancel("changed my mind"))
        try:
            await later.result()
        except JobCancelled as error:
            print(error)

        slow = await runtime.enqueue(too_slow)
        try:
            await slow.result(timeout_s=5)
        except JobFailed as error:
            print("too_slow:", error.reason)

        try:
            await runtime.enqueue("greet", nam="a typing error")
        except InvalidArguments as error:
            print("refused:", error)


if __name__ == "__main__":
    asyncio.run(main())
