"""Takes the place of arq's own `conftest.py`: the same fixtures, on a local redis-server, with our
worker in place of arq's. Runs in the environment of the real arq, whose clients the tests use."""

import asyncio
import functools
import logging
import os
import sys

import msgpack
import pytest
import redis.exceptions
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.constants import health_check_key_suffix
from arq.worker import FailedJobs, func
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker_runtime.arq.worker import ArqWorker

# As the command line sets it: arq's own lines tell how a job ended.
logging.getLogger("worker_runtime.jobs").setLevel(logging.ERROR)
PORT = int(os.environ["ARQ_SUITE_PORT"])


class OurWorker:
    """Our worker in the shape of arq's: `main()` runs what is in the queue, as burst does."""

    def __init__(self, functions=(), *, redis_pool=None, redis_settings=None, **settings):
        self._settings = settings
        self.functions = {f.name: f for f in map(func, functions)}
        settings["functions"] = list(functions)
        settings["redis_settings"] = redis_settings or RedisSettings(port=PORT)
        settings.setdefault("queue_name", "arq:queue")
        if settings["queue_name"] is None:
            settings["queue_name"] = redis_pool.default_queue_name
        # The suite sends exceptions and its own classes, and expects arq's way with strangers.
        settings |= {"unsafe_pickle": True, "unknown_functions": "fail"}
        settings.pop("handle_signals", None)
        if redis_pool is not None:
            settings.setdefault("job_serializer", redis_pool.job_serializer)
            settings.setdefault("job_deserializer", redis_pool.job_deserializer)
        self.pool = redis_pool
        self.health_check_key = settings["queue_name"] + health_check_key_suffix
        self._workers = []
        self.tasks, self.job_tasks, self.aborting_tasks = {}, {}, set()  # empty after `main()`
        self._overrides = {}

    def _sum(self, name):
        return sum(getattr(worker.store.ends, name) for worker in self._workers)

    jobs_complete = property(lambda self: self._sum("completed"))
    jobs_failed = property(lambda self: self._sum("failed"))
    jobs_retried = property(lambda self: self._sum("retried"))

    async def main(self):
        if self._workers:
            await self._workers[-1].stop()
        worker = ArqWorker(self._settings | self._overrides)
        self._workers.append(worker)
        await worker.start()
        await worker.drain()
        worker.runtime.pause(self._settings["queue_name"])
        async with worker.store.location.connect() as client:
            async for key in client.scan_iter(match="worker-runtime:*"):
                await client.delete(key)  # ours alone; tests compare all keys

    async_run = main

    async def run_check(self, retry_jobs=None, max_burst_jobs=None):
        given = {"retry_jobs": retry_jobs, "max_burst_jobs": max_burst_jobs}
        self._overrides = {name: value for name, value in given.items() if value is not None}
        await self.main()
        if self.jobs_failed:
            found = await self.pool.all_job_results()
            raise FailedJobs(self.jobs_failed, [r for r in found if not r.success])
        return self.jobs_complete

    async def close(self):
        for worker in self._workers:
            await worker.stop()
        self._workers.clear()


@pytest.fixture(name="loop")
def _fix_loop(event_loop):
    return event_loop


@pytest.fixture(scope="session")
def test_redis_host():
    return "127.0.0.1"


@pytest.fixture(scope="session")
def test_redis_port():
    return PORT


@pytest.fixture(scope="session")
def test_redis_settings(test_redis_host, test_redis_port):
    return RedisSettings(host=test_redis_host, port=test_redis_port)


async def _client(**options):
    client = ArqRedis(host="127.0.0.1", port=PORT, encoding="utf-8", **options)
    await client.flushall()
    return client


@pytest.fixture
async def arq_redis():
    client = await _client()
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
async def arq_redis_msgpack():
    client = await _client(
        job_serializer=msgpack.packb,
        job_deserializer=functools.partial(msgpack.unpackb, raw=False),
    )
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
async def arq_redis_retry():
    client = await _client(
        retry=Retry(backoff=NoBackoff(), retries=3),
        retry_on_timeout=True,
        retry_on_error=[redis.exceptions.ConnectionError],
    )
    yield client
    await client.aclose(close_connection_pool=True)


def _worker_factory(default_pool):
    made = []

    def create(functions=(), burst=True, poll_delay=0, max_jobs=10, arq_redis=default_pool, **rest):
        worker = OurWorker(
            functions,
            redis_pool=arq_redis,
            burst=burst,
            poll_delay=poll_delay,
            max_jobs=max_jobs,
            **rest,
        )
        made.append(worker)
        return worker

    return create, made


@pytest.fixture
async def worker(arq_redis):
    create, made = _worker_factory(arq_redis)
    yield create
    for one in made:
        await one.close()


@pytest.fixture
async def worker_retry(arq_redis_retry):
    create, made = _worker_factory(arq_redis_retry)
    yield create
    for one in made:
        await one.close()


@pytest.fixture(name="create_pool")
async def fix_create_pool(loop):
    pools = []

    async def create_pool_(settings, *args, **kwargs):
        pool = await create_pool(settings, *args, **kwargs)
        pools.append(pool)
        return pool

    yield create_pool_
    await asyncio.gather(*(pool.aclose(close_connection_pool=True) for pool in pools))


@pytest.fixture(name="cancel_remaining_task")
def fix_cancel_remaining_task(loop):
    yield
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        print(f"Cancelled {len(tasks)} ongoing tasks", file=sys.stderr)
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


@pytest.fixture
def env(monkeypatch):
    class SetEnv:
        def set(self, name, value):
            monkeypatch.setenv(name, value)

    return SetEnv()
