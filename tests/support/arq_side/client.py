"""Real arq as a client, one verb per run; prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job


async def probe(pool):
    """Everything a client does, once, against whatever worker is there."""
    found = {}
    job = await pool.enqueue_job("add", 1, b=2)
    found["add"] = await job.result(timeout=15, poll_delay=0.02)
    info = await job.info()
    found["info"] = [info.function, list(info.args), info.kwargs, info.job_try, info.success]
    found["status"] = await job.status()
    job = await pool.enqueue_job("broken")
    try:
        await job.result(timeout=15, poll_delay=0.02)
    except KeyError as error:
        found["broken"] = str(error)
    job = await pool.enqueue_job("again")
    found["again"] = await job.result(timeout=15, poll_delay=0.02)
    job = await pool.enqueue_job("sleep", 30)
    while await job.status() != "in_progress":
        await asyncio.sleep(0.02)
    found["abort"] = await job.abort(timeout=15, poll_delay=0.02)
    job = await pool.enqueue_job("sleep", 30, _defer_by=60)
    found["deferred"] = await job.status()
    found["abort_deferred"] = await job.abort(timeout=15, poll_delay=0.02)
    first = await pool.enqueue_job("add", 1, _job_id="same")
    second = await pool.enqueue_job("add", 1, _job_id="same")
    found["same"] = [first is not None, second is not None]
    await first.result(timeout=15, poll_delay=0.02)
    found["third"] = await pool.enqueue_job("add", 1, _job_id="same") is None
    found["results"] = len(await pool.all_job_results())
    return found


async def enqueue(pool, function, count, *args):
    ids = []
    for _ in range(int(count)):
        job = await pool.enqueue_job(function, *[float(a) for a in args])
        ids.append(job.job_id)
    return ids


async def results(pool, *ids):
    found = []
    for job_id in ids:
        try:
            found.append(await Job(job_id, pool).result(timeout=20, poll_delay=0.02))
        except Exception as error:
            found.append(repr(error))
    return found


async def main(verb, *arguments):
    pool = await create_pool(RedisSettings(port=int(os.environ["ARQ_SIDE_PORT"])))
    return await {"probe": probe, "enqueue": enqueue, "results": results}[verb](pool, *arguments)


print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
