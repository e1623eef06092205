"""A worker in a process of its own, to be killed: `python -m ... KIND STORE`.

It says `running ID` for each job that it has begun, and ends none.
"""

from __future__ import annotations

import asyncio
import sys

from tests.whole.contract.stores.places import STORES
from worker_runtime import JobContext, Runtime, Settings, task


@task
async def hold(ctx: JobContext) -> None:
    print("running", ctx.job_id, flush=True)
    await asyncio.Event().wait()


@task(on_crash="fail")
async def fragile(ctx: JobContext) -> None:
    print("running", ctx.job_id, flush=True)
    await asyncio.Event().wait()


async def main(kind: str, store: str) -> None:
    hasty = STORES[kind].hasty
    assert hasty is not None
    async with Runtime([hold, fragile], store=hasty(store), settings=Settings()):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
