"""What costs arq jobs and does not cost us any: first arq's fault, then ours not having it.

arq's part runs the real package in a process of its own; skipped where it cannot be installed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.arq_env import NEWEST, ask, start_arq_worker, start_our_worker
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer
from worker_runtime import RunAgain, Runtime, Settings, State, task
from worker_runtime.arq import RedisSettings, create_pool, func
from worker_runtime.arq.worker import ArqWorker
from worker_runtime.stores.redis.store import RedisStore

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts workers that do not outlive the test: `start(start_our_worker, port, settings)`."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(
        starter: Start, port: int, settings: str = "WorkerSettings"
    ) -> subprocess.Popen[bytes]:
        process = starter(NEWEST, port, settings)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def _started(server: RedisServer, count: int) -> None:
    with server.client() as client:
        await eventually(lambda: client.llen("starts") >= count, 30)


# A worker dies


async def test_arq_leaves_a_dead_workers_job_for_minutes(server: RedisServer, start: Any) -> None:
    worker = start(start_arq_worker, server.port, "NarrowSettings")
    [job_id] = ask(NEWEST, server.port, "enqueue", "sleep", 1, 30)
    await _started(server, 1)
    worker.kill()
    with server.client() as client:
        assert client.pttl(f"arq:in-progress:{job_id}") > 290_000  # nobody else may take it


async def test_we_take_a_dead_workers_job_over(server: RedisServer, start: Any) -> None:
    worker = start(start_our_worker, server.port)
    [job_id] = ask(NEWEST, server.port, "enqueue", "sleep", 1, 1)
    await _started(server, 1)
    worker.kill()
    with server.client() as client:
        assert client.pttl(f"arq:in-progress:{job_id}") <= 3000  # the lease; 20 s by default
    start(start_our_worker, server.port)
    await _started(server, 2)
    assert ask(NEWEST, server.port, "results", job_id) == [1]


async def test_a_real_arq_worker_takes_our_dead_workers_job_over(
    server: RedisServer, start: Any
) -> None:
    worker = start(start_our_worker, server.port)
    [job_id] = ask(NEWEST, server.port, "enqueue", "sleep", 1, 1)
    await _started(server, 1)
    worker.kill()
    start(start_arq_worker, server.port)
    await _started(server, 2)
    assert ask(NEWEST, server.port, "results", job_id) == [1]


async def test_a_job_that_kills_its_worker_is_given_up(server: RedisServer) -> None:
    """A runtime of ours counts the deaths; the third ends the job."""

    @task
    async def idle() -> str:
        return "ran"

    async with Runtime([idle], store=server.url) as runtime:
        runtime.pause("default")
        job = await runtime.enqueue(idle)
        with server.client() as client:
            client.set(f"arq:retry:{job.id}", 3)
            client.set(f"worker-runtime:crashes:{job.id}", 2)
        runtime.resume("default")
        assert await job.wait(timeout_s=5) is State.FAILED
        assert job.info().reason == "crashed"


# The event loop is blocked


async def test_a_blocked_loop_keeps_its_lease(server: RedisServer) -> None:
    """The job blocks the loop for longer than its lease; a second worker must not run it too."""
    runs: list[str] = []

    async def block(ctx: dict[str, Any]) -> None:
        runs.append(ctx["job_id"])
        await asyncio.to_thread(lambda: None)
        time.sleep(2.5)

    settings = {
        "functions": [func(block, name="block")],
        "redis_settings": RedisSettings(port=server.port),
        "lease_s": 1,
        "poll_delay": 0.05,
    }
    lowest_ms = 1000
    stopped = threading.Event()

    def watch() -> None:
        nonlocal lowest_ms
        with server.client() as client:
            while not stopped.wait(0.02):
                for key in client.keys("arq:in-progress:*"):
                    lowest_ms = min(lowest_ms, client.pttl(key))

    watcher = threading.Thread(target=watch)
    async with ArqWorker(settings) as worker:
        pool = await create_pool(RedisSettings(port=server.port))
        job = await pool.enqueue_job("block")
        assert job is not None
        watcher.start()
        await job.result(timeout=10)
        stopped.set()
        watcher.join()
        await eventually(lambda: worker.store.ends.completed == 1)
        await pool.aclose()
    assert len(runs) == 1
    assert lowest_ms > 100, "the lease nearly ended while its job ran"


async def test_a_result_without_a_lease_is_not_written(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else took the job over: what this worker made of it must not count."""
    finish = asyncio.Event()

    @task
    async def wait() -> str:
        await finish.wait()
        return "from the first"

    async with Runtime([wait], store=server.url) as runtime:
        job = await runtime.enqueue(wait)
        with server.client() as client:
            key = f"arq:in-progress:{job.id}"
            await eventually(lambda: client.exists(key))
            client.set(key, "somebody else", px=60_000)
            finish.set()
            await eventually(lambda: "another worker has it" in caplog.text)
            assert client.exists(f"arq:result:{job.id}") == 0
            assert client.get(key) == b"somebody else"
            assert client.zscore("arq:queue", job.id) is not None


async def test_a_lost_lease_stops_the_attempt(server: RedisServer) -> None:
    ended = asyncio.Event()

    async def hang(ctx: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    settings = {
        "functions": [func(hang, name="hang")],
        "redis_settings": RedisSettings(port=server.port),
        "lease_s": 1,
    }
    async with ArqWorker(settings):
        pool = await create_pool(RedisSettings(port=server.port))
        job = await pool.enqueue_job("hang")
        assert job is not None
        with server.client() as client:
            key = f"arq:in-progress:{job.job_id}"
            await eventually(lambda: client.exists(key))
            client.set(key, "somebody else", px=60_000)
        await asyncio.wait_for(ended.wait(), 20)
        await pool.aclose()


# Redis is away


async def test_arq_ends_when_redis_restarts(own_server: Any, start: Any) -> None:
    server = own_server(appendonly=True)
    worker = start(start_arq_worker, server.port)
    ask(NEWEST, server.port, "enqueue", "sleep", 1, 0.01)
    await _started(server, 1)
    server.kill()
    await asyncio.sleep(1)
    server.start()
    await eventually(lambda: worker.poll() is not None, 20, what="arq's worker has ended")
    assert worker.returncode != 0


@pytest.mark.parametrize("appendonly", [True, False])
async def test_a_redis_restart_costs_us_nothing_that_redis_kept(
    own_server: Any, appendonly: bool
) -> None:
    server: RedisServer = own_server(appendonly=appendonly)
    release = asyncio.Event()

    @task
    async def wait(value: int) -> int:
        await release.wait()
        return value

    async with Runtime([wait], store=server.url, concurrency=5) as runtime:
        jobs = [await runtime.enqueue(wait, i) for i in range(5)]
        await eventually(lambda: runtime.queue_info("default").running == 5)
        server.kill()
        release.set()  # they end while there is no Redis
        await eventually(lambda: runtime.queue_info("default").running == 0)
        server.start()
        if appendonly:
            assert [await job.result(timeout_s=10) for job in jobs] == list(range(5))
            with server.client() as client:
                await eventually(lambda: len(client.keys("arq:result:*")) == 5)
        again = await runtime.enqueue(wait, 9)
        assert await again.result(timeout_s=10) == 9


async def test_a_frozen_redis_is_waited_for(own_server: Any) -> None:
    server: RedisServer = own_server()
    release = asyncio.Event()

    @task
    async def wait() -> str:
        await release.wait()
        return "kept"

    async with Runtime([wait], store=server.url) as runtime:
        job = await runtime.enqueue(wait)
        await eventually(lambda: runtime.queue_info("default").running == 1)
        server.freeze()
        release.set()
        await eventually(lambda: runtime.queue_info("default").running == 0)
        await asyncio.sleep(2)
        server.thaw()
        assert await job.result(timeout_s=20) == "kept"


async def test_a_read_only_redis_is_waited_for(
    own_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a failover, when the connection still leads to what is a replica now."""
    server: RedisServer = own_server()
    release = asyncio.Event()

    @task
    async def wait() -> str:
        await release.wait()
        return "kept"

    async with Runtime([wait], store=server.url) as runtime:
        job = await runtime.enqueue(wait)
        await eventually(lambda: runtime.queue_info("default").running == 1)
        with server.client() as client:
            client.slaveof("127.0.0.1", "1")  # nobody there: it keeps its data, refuses writes
            release.set()
            await eventually(lambda: "results wait in memory" in caplog.text, 10)
            client.slaveof("NO", "ONE")
        assert await job.result(timeout_s=10) == "kept"


async def test_a_full_redis_still_takes_results(own_server: Any) -> None:
    server: RedisServer = own_server(arguments="--maxmemory-policy noeviction")
    release = asyncio.Event()

    @task
    async def wait() -> str:
        await release.wait()
        return "kept"

    async with Runtime([wait], store=server.url) as runtime:
        job = await runtime.enqueue(wait)
        await eventually(lambda: runtime.queue_info("default").running == 1)
        with server.client() as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(Exception, match="Redis cannot take the job now"):
                await runtime.enqueue(wait)
            release.set()
            assert await job.result(timeout_s=10) == "kept"
            client.config_set("maxmemory", 0)
        again = await runtime.enqueue(wait)
        assert await again.result(timeout_s=10) == "kept"


# A worker stops


async def test_an_arq_shutdown_uses_a_try(server: RedisServer, start: Any) -> None:
    worker = start(start_arq_worker, server.port)
    [job_id] = ask(NEWEST, server.port, "enqueue", "sleep", 1, 30)
    await _started(server, 1)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=20)
    with server.client() as client:
        assert client.get(f"arq:retry:{job_id}") == b"1"


async def test_our_shutdown_uses_no_try(server: RedisServer, start: Any) -> None:
    worker = start(start_our_worker, server.port)
    [job_id] = ask(NEWEST, server.port, "enqueue", "sleep", 1, 30)
    await _started(server, 1)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=20)
    with server.client() as client:
        assert client.get(f"arq:retry:{job_id}") is None
        assert client.exists(f"arq:in-progress:{job_id}") == 0
        assert client.zscore("arq:queue", job_id) is not None


# Other jobs in the way


async def test_arq_destroys_jobs_of_functions_it_lacks(server: RedisServer, start: Any) -> None:
    start(start_arq_worker, server.port, "FewSettings")
    [job_id] = ask(NEWEST, server.port, "enqueue", "tally", 1)
    [answer] = ask(NEWEST, server.port, "results", job_id)
    assert "function 'tally' not found" in answer


async def test_we_leave_jobs_of_functions_we_lack(server: RedisServer, start: Any) -> None:
    start(start_our_worker, server.port, "FewSettings")
    [stranger] = ask(NEWEST, server.port, "enqueue", "tally", 1)
    [known] = ask(NEWEST, server.port, "enqueue", "add", 1, 1)
    assert ask(NEWEST, server.port, "results", known) == [2]
    with server.client() as client:
        assert client.zscore("arq:queue", stranger) is not None
    start(start_arq_worker, server.port)
    [ran_by] = ask(NEWEST, server.port, "results", stranger)
    assert ran_by.isdigit()


async def test_arq_is_blocked_by_jobs_in_progress_at_the_head(
    server: RedisServer, start: Any
) -> None:
    """It looks at the first ten due jobs; ten in progress elsewhere hide all others."""
    with server.client() as client:
        for i in range(10):
            client.zadd("arq:queue", {f"busy{i}": i + 1})
            client.set(f"arq:in-progress:busy{i}", "1", px=60_000)
    start(start_arq_worker, server.port, "NarrowSettings")
    [job_id] = ask(NEWEST, server.port, "enqueue", "add", 1, 1)
    with server.client() as client:
        await eventually(lambda: client.exists("arq:queue:health-check"), 20)
        await asyncio.sleep(1)
        assert client.exists(f"arq:result:{job_id}") == 0


async def test_the_head_of_the_line_does_not_block_us(server: RedisServer) -> None:
    @task
    async def quick() -> str:
        return "ran"

    with server.client() as client:
        busy = {f"busy{i}": i + 1 for i in range(5000)}
        client.zadd("arq:queue", busy)
        pipe = client.pipeline()
        for name in busy:
            pipe.set(f"arq:in-progress:{name}", "1", px=60_000)
        pipe.execute()
    async with Runtime([quick], store=server.url) as runtime:
        job = await runtime.enqueue(quick)
        assert await job.result(timeout_s=10) == "ran"


# A lost answer


async def test_a_claim_whose_answer_was_lost_uses_no_try(server: RedisServer) -> None:
    tries: list[int] = []

    @task
    async def note(ctx: Any) -> None:
        tries.append(ctx.attempt)

    async with Runtime([note], store=server.url) as runtime:
        runtime.pause("default")
        store = runtime.parts.store
        assert isinstance(store, RedisStore)
        await runtime.enqueue(note)
        claims = await store.claim("default", 5)
        token = claims.jobs[0].lease.token
        store.leases.held.clear()
        store.note_unanswered(token)  # as if the connection had broken before the answer
        runtime.resume("default")
        await eventually(lambda: tries)
        await runtime.join()
    assert tries == [1]


async def test_what_a_retry_waits_for_outlives_the_enqueuers_day(server: RedisServer) -> None:
    """arq lets the job's key expire a day after its enqueue, also when a retry is due later."""

    @task
    async def later() -> None:
        raise RunAgain(3 * 86_400)

    async with Runtime([later], store=server.url, settings=Settings()) as runtime:
        job = await runtime.enqueue(later)
        with server.client() as client:
            key = f"arq:job:{job.id}"
            await eventually(lambda: client.ttl(key) > 3 * 86_400)


async def test_no_error_ends_the_claims(own_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    server: RedisServer = own_server()

    @task
    async def quick() -> str:
        return "ran"

    async with Runtime([quick], store=server.url) as runtime:
        with server.client() as client:
            client.set("arq:queue", "not a sorted set")
            runtime.parts.feed.look_again()
            await eventually(lambda: "WRONGTYPE" in caplog.text)
            client.delete("arq:queue")
        job = await runtime.enqueue(quick)
        assert await job.result(timeout_s=10) == "ran"
