"""Child processes for CPU work: ours, ProcessPoolExecutor, loky and pebble, two children each.

Throughput of jobs that do nothing and of jobs of about 1 ms, the time from a deadline to a child
that was killed and replaced, how many jobs fail by another's crash, and large arrays both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

import loky
import numpy as np
import pebble
import psutil
import uvloop

from benchmarks import cpu_tasks
from benchmarks.report import in_turns, rate, ratio, table, versions
from worker_runtime import JobContext, Runtime, Settings
from worker_runtime.clock.source import SYSTEM
from worker_runtime.executors.process.parent.pool import ProcessExecutor
from worker_runtime.model.context import JobContext as Context
from worker_runtime.model.job import Job
from worker_runtime.model.states import StopReason
from worker_runtime.model.tasks.definition import TaskDefinition, define, task
from worker_runtime.settings import ProcessSettings

CHILDREN = 2
NOOPS = 10_000
SPINS = 1_500
ARRAY_BYTES = 100_000_000
ROUNDS = 5
DEADLINE_S = 0.2
INNOCENT = 20
IDEAL = "ideal: two bare processes"

Submit = Callable[..., "Future[Any]"]

TASKS = (
    cpu_tasks.noop,
    cpu_tasks.spin,
    cpu_tasks.hang,
    cpu_tasks.die,
    cpu_tasks.pause,
    cpu_tasks.double,
)


class _Call:
    """A call for our executor, without the rest of the runtime."""

    context: Context | None = None

    def __init__(self, definition: TaskDefinition, args: tuple[Any, ...]) -> None:
        self.job = Job("job", definition, args, None, "default", 2, 1, 0.0)

    def began(self) -> None:
        pass

    def interrupt(self) -> None:
        pass


class Ours:
    """Our executor, warm."""

    def __init__(self) -> None:
        self._definitions = {fn: define(fn, context_type=JobContext) for fn in TASKS}
        limits = ProcessSettings(size_max=CHILDREN, size_min=CHILDREN)
        self.executor = ProcessExecutor(list(self._definitions.values()), SYSTEM, limits)

    async def __aenter__(self) -> Ours:
        await self.executor.open()
        await asyncio.gather(*[self.start(cpu_tasks.noop) for _ in range(100)])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.executor.close()

    def call(self, fn: Callable[..., Any], *args: Any) -> _Call:
        return _Call(self._definitions[fn], args)

    def start(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return self.executor.start(self.call(fn, *args))


def in_ours(measure: Callable[[Ours], Coroutine[Any, Any, float]]) -> Callable[[], float]:
    async def run() -> float:
        async with Ours() as ours:
            return await measure(ours)

    return lambda: uvloop.run(run())


@contextlib.contextmanager
def process_pool_executor() -> Iterator[Submit]:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(CHILDREN, mp_context=context) as pool:
        yield _warm(pool.submit)


@contextlib.contextmanager
def loky_executor() -> Iterator[Submit]:
    with loky.ProcessPoolExecutor(CHILDREN) as pool:
        yield _warm(pool.submit)


@contextlib.contextmanager
def pebble_pool() -> Iterator[Submit]:
    with pebble.ProcessPool(CHILDREN) as pool:
        yield _warm(pool.submit, None)


def _warm(submit: Callable[..., Any], *first: Any) -> Submit:
    def warmed(fn: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = submit(fn, *first, *args)
        return future

    for future in [warmed(cpu_tasks.pause, 0.05) for _ in range(CHILDREN)]:
        future.result()
    return warmed


class Pool(Protocol):
    def __call__(self) -> contextlib.AbstractContextManager[Submit]: ...


PEERS: dict[str, Pool] = {
    "ProcessPoolExecutor": process_pool_executor,
    "loky": loky_executor,
    "pebble": pebble_pool,
}


def in_peer(pool: Pool, measure: Callable[[Submit], float]) -> Callable[[], float]:
    def run() -> float:
        with pool() as submit:
            return measure(submit)

    return run


# Throughput


async def our_rate(ours: Ours, count: int, fn: Callable[..., Any], *args: Any) -> float:
    began = time.perf_counter()
    for future in [ours.start(fn, *args) for _ in range(count)]:
        await future
    return count / (time.perf_counter() - began)


def peer_rate(submit: Submit, count: int, fn: Callable[..., Any], *args: Any) -> float:
    began = time.perf_counter()
    for future in [submit(fn, *args) for _ in range(count)]:
        future.result()
    return count / (time.perf_counter() - began)


def runtime_rate(count: int, fn: Callable[..., Any], *args: Any) -> Callable[[], float]:
    """The whole way, `enqueue` to `result()`: argument check, queue, history, metrics."""

    async def run() -> float:
        in_process = task(run_in="process")(fn)
        settings = Settings.from_environment(
            {}, concurrency=10, queue_capacity=count, processes=CHILDREN
        )
        async with Runtime([in_process], settings=settings) as runtime:
            for warm in [await runtime.enqueue(in_process, *args) for _ in range(100)]:
                await warm.result()
            began = time.perf_counter()
            for job in [await runtime.enqueue(in_process, *args) for _ in range(count)]:
                await job.result()
            return count / (time.perf_counter() - began)

    return lambda: uvloop.run(run())


def throughput(count: int, fn: Callable[..., Any], *args: Any) -> dict[str, Callable[[], float]]:
    contenders = {
        name: in_peer(pool, lambda submit: peer_rate(submit, count, fn, *args))
        for name, pool in PEERS.items()
    }
    contenders["ours, executor"] = in_ours(lambda ours: our_rate(ours, count, fn, *args))
    contenders["ours, whole runtime"] = runtime_rate(count, fn, *args)
    return contenders


def _spin_for_ever(iterations: int, ready: Any, go: Any, count: int) -> None:
    ready.release()
    go.wait()
    for _ in range(count):
        cpu_tasks.spin(iterations)


def iterations_of_1_ms() -> int:
    """How much `spin` takes a millisecond of this machine's CPU time."""

    def cpu_s(iterations: int) -> float:
        began = time.process_time()
        cpu_tasks.spin(iterations)
        return time.process_time() - began

    return int(1e-3 * 200_000 / min(cpu_s(200_000) for _ in range(10)))


def ideal_rate(iterations: int) -> float:
    """Two processes that only compute, with nobody to talk to."""
    context = multiprocessing.get_context("forkserver")
    ready, go = context.Semaphore(0), context.Event()
    share = SPINS // CHILDREN
    children = [
        context.Process(target=_spin_for_ever, args=(iterations, ready, go, share))
        for _ in range(CHILDREN)
    ]
    for child in children:
        child.start()
    for _ in children:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    for child in children:
        child.join()
    return share * CHILDREN / (time.perf_counter() - began)


def _cpu_s() -> float:
    """CPU time used so far by this process and every process below it."""
    this = psutil.Process()
    used = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(times.user + times.system for times in used)


async def our_cpu_ms(ours: Ours, iterations: int) -> float:
    """CPU milliseconds a job costs in all processes together."""
    before = _cpu_s()
    await our_rate(ours, SPINS, cpu_tasks.spin, iterations)
    return (_cpu_s() - before) / SPINS * 1e3


def peer_cpu_ms(submit: Submit, iterations: int) -> float:
    before = _cpu_s()
    peer_rate(submit, SPINS, cpu_tasks.spin, iterations)
    return (_cpu_s() - before) / SPINS * 1e3


def bare_cpu_ms(iterations: int) -> float:
    before = time.process_time()
    for _ in range(SPINS):
        cpu_tasks.spin(iterations)
    return (time.process_time() - before) / SPINS * 1e3


# Deadlines and crashes


async def our_kill(ours: Ours) -> float:
    """Milliseconds from the deadline until both children take work again."""
    call = ours.call(cpu_tasks.hang)
    running = ours.executor.start(call)
    await asyncio.sleep(DEADLINE_S)
    began = time.perf_counter()
    ours.executor.stop(call, StopReason.TIMEOUT)
    await asyncio.wait([running])
    running.exception()
    await asyncio.gather(*[ours.start(cpu_tasks.pause, 0.02) for _ in range(CHILDREN)])
    return (time.perf_counter() - began - 0.02) * 1e3


def pebble_kill() -> float:
    with pebble.ProcessPool(CHILDREN) as pool:
        _warm(pool.submit, None)
        began = time.perf_counter()
        try:
            pool.submit(cpu_tasks.hang, DEADLINE_S).result()
        except TimeoutError:
            pass
        futures = [pool.submit(cpu_tasks.pause, None, 0.02) for _ in range(CHILDREN)]
        for future in futures:
            future.result()
        return (time.perf_counter() - began - DEADLINE_S - 0.02) * 1e3


async def our_innocent_failures(ours: Ours) -> float:
    innocent = [ours.start(cpu_tasks.pause, 0.02) for _ in range(INNOCENT // 2)]
    guilty = ours.start(cpu_tasks.die)
    innocent += [ours.start(cpu_tasks.pause, 0.02) for _ in range(INNOCENT // 2)]
    ends = await asyncio.gather(*innocent, guilty, return_exceptions=True)
    return float(sum(isinstance(end, BaseException) for end in ends[:-1]))


def peer_innocent_failures(submit: Submit) -> float:
    innocent = [submit(cpu_tasks.pause, 0.02) for _ in range(INNOCENT // 2)]
    submit(cpu_tasks.die)
    failed = 0
    for _ in range(INNOCENT // 2):
        try:
            innocent.append(submit(cpu_tasks.pause, 0.02))
        except Exception:  # the pool is already broken and takes no more
            failed += 1
    return float(failed + sum(future.exception() is not None for future in innocent))


# Arrays


async def our_array_rate(ours: Ours) -> float:
    """Megabytes a second, there and back, of one array at a time."""
    array = np.ones(ARRAY_BYTES // 8)
    began = time.perf_counter()
    doubled = await ours.start(cpu_tasks.double, array)
    took_s = time.perf_counter() - began
    assert doubled[-1] == 2.0
    return 2 * ARRAY_BYTES / 1e6 / took_s


def peer_array_rate(submit: Submit) -> float:
    array = np.ones(ARRAY_BYTES // 8)
    began = time.perf_counter()
    doubled = submit(cpu_tasks.double, array).result()
    took_s = time.perf_counter() - began
    assert doubled[-1] == 2.0
    return 2 * ARRAY_BYTES / 1e6 / took_s


# The page


def main() -> str:
    """Measure, and return the page's section."""
    noops = in_turns(throughput(NOOPS, cpu_tasks.noop), rounds=ROUNDS)
    iterations = iterations_of_1_ms()
    contenders = {IDEAL: lambda: ideal_rate(iterations)}
    contenders |= throughput(SPINS, cpu_tasks.spin, iterations)
    spins = in_turns(contenders, rounds=ROUNDS)
    costs = {"bare loop": lambda: bare_cpu_ms(iterations)}
    costs |= {
        name: in_peer(pool, lambda submit: peer_cpu_ms(submit, iterations))
        for name, pool in PEERS.items()
    }
    costs["ours, executor"] = in_ours(lambda ours: our_cpu_ms(ours, iterations))
    cpu = in_turns(costs, rounds=ROUNDS)
    kills = in_turns({"pebble": pebble_kill, "ours": in_ours(our_kill)}, rounds=ROUNDS)
    crashes = {name: in_peer(pool, peer_innocent_failures)() for name, pool in PEERS.items()}
    crashes["ours"] = in_ours(our_innocent_failures)()
    arrays = in_turns(
        {name: in_peer(pool, peer_array_rate) for name, pool in PEERS.items()}
        | {"ours": in_ours(our_array_rate)},
        rounds=ROUNDS,
    )
    return "\n\n".join(
        [
            "## CPU pool",
            (
                f"{CHILDREN} children each, {ROUNDS} rounds in turns; ours on uvloop. "
                f"{versions('loky', 'pebble', 'uvloop', 'numpy')}."
            ),
            f"{NOOPS:,} jobs that do nothing, all submitted at once:",
            _rates(noops, "ProcessPoolExecutor", "to ProcessPoolExecutor"),
            f"{SPINS:,} jobs of 1 ms of CPU time ({iterations:,} iterations):",
            _rates(spins, IDEAL, "to ideal"),
            (
                "The same jobs by the CPU time that all processes together use for one, which a "
                "busy machine disturbs less. This bounds the rate on cores that nobody else uses:"
            ),
            table(
                ["contender", "median, ms", "of it the job's"],
                [
                    [
                        name,
                        f"{statistics.median(values):.3f}",
                        f"{ratio(cpu['bare loop'], values):.0%}",
                    ]
                    for name, values in cpu.items()
                ],
            ),
            (
                "From a deadline until the child is killed, replaced and both take work again "
                "(neither ProcessPoolExecutor nor loky can do this):"
            ),
            table(
                ["contender", "median, ms", "worst, ms"],
                [
                    [name, f"{statistics.median(values):.1f}", f"{max(values):.1f}"]
                    for name, values in kills.items()
                ],
            ),
            f"One job calls `os._exit` amid {INNOCENT} others. Others that failed by it:",
            table(["contender", "failed"], [[n, f"{count:.0f}"] for n, count in crashes.items()]),
            (
                f"A NumPy array of {ARRAY_BYTES / 1e6:.0f} MB to a child and back, one at a time. "
                "The peers pickle it through a pipe; ours goes through memory files:"
            ),
            _rates(arrays, "ProcessPoolExecutor", "to ProcessPoolExecutor", unit="MB/s"),
        ]
    )


def _rates(
    figures: dict[str, list[float]], baseline: str, against: str, *, unit: str = "jobs/s"
) -> str:
    rows = [
        [name, rate(statistics.median(values)), f"{ratio(values, figures[baseline]):.2f}x"]
        for name, values in figures.items()
    ]
    return table(["contender", f"median, {unit}", against], rows)


if __name__ == "__main__":
    print(main())
