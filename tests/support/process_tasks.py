"""Tasks that the tests run in real children."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import functools
import io
import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from worker_runtime.errors import RunAgain
from worker_runtime.model.context import JobContext
from worker_runtime.model.tasks.definition import task


def add(a: int, b: int = 1) -> int:
    return a + b


async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


def compute(count: int) -> int:
    return sum(range(count))


def own_pid() -> int:
    return os.getpid()


def describe_context(ctx: JobContext) -> dict[str, Any]:
    return {
        "job_id": ctx.job_id,
        "task": ctx.task,
        "queue": ctx.queue,
        "attempt": ctx.attempt,
        "label": ctx.label,
        "state": ctx.state,
    }


# Ends


class Awkward(Exception):
    """Cannot be unpickled: its constructor wants what pickle does not give it."""

    def __init__(self, code: int, *, place: str) -> None:
        super().__init__(f"{code} at {place}")


class Detail(Awkward):
    pass


def fail(kind: str) -> NoReturn:
    if kind == "Awkward":
        raise Detail(7, place="the end")
    kinds: dict[str, type[BaseException]] = {
        "ValueError": ValueError,
        "StopIteration": StopIteration,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "GeneratorExit": GeneratorExit,
        "CancelledError": asyncio.CancelledError,
        "MemoryError": MemoryError,
    }
    raise kinds[kind]("on purpose")


def unpicklable_result() -> Callable[[], None]:
    return lambda: None


class Grenade:
    """Its pickle raises where it is read."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _explode, ()


def _explode() -> NoReturn:
    raise SystemExit("unpickled")


def undecodable_result() -> Grenade:
    return Grenade()


def undecodable_argument(grenade: object) -> str:
    return "never"


def run_again(how: str) -> RunAgain:
    again = RunAgain(2.5, uses_attempt=True)
    if how == "raise":
        raise again
    return again


def always_again(is_returned: bool) -> RunAgain:
    request = RunAgain(uses_attempt=True)
    if is_returned:
        return request
    raise request


def exit_now(code: int) -> NoReturn:
    print("last words", file=sys.stderr, flush=True)
    os._exit(code)


def segfault() -> None:
    ctypes.string_at(0)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def close_every_descriptor() -> None:
    os.closerange(3, 1000)


def crash_unless_first(marker: str) -> str:
    """The first time all is well; later the child dies."""
    path = Path(marker)
    if path.exists():
        os._exit(3)
    path.touch()
    return "fine"


# Time


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleep_marked(seconds: float, started: str) -> float:
    Path(started).write_text(str(os.getpid()))
    time.sleep(seconds)
    return seconds


def cooperate(ctx: JobContext, started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    while True:
        ctx.raise_if_cancelled()
        time.sleep(0.002)


def loop_forever(started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    try:
        while True:
            pass
    finally:
        Path(started + ".cleaned").touch()


async def wait_forever(started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    try:
        await asyncio.Event().wait()
    finally:
        Path(started + ".cleaned").touch()


def ignore_sigterm(started: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(started).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


def swallow_stop(started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass


def start_grandchild(started: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        Path(started).write_text(str(process.pid))
        process.wait()


def leave_grandchild(started: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(started).write_text(str(process.pid))
    os._exit(3)


def hold_the_gil(started: str, seconds: float) -> None:
    """C code that lets no other thread of the child run."""
    Path(started).write_text(str(os.getpid()))
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1e6)))


def tick(path: str) -> None:
    """A side effect each millisecond, for as long as the child lives."""
    while True:
        with Path(path).open("a") as file:
            file.write(f"{time.time()}\n")
        time.sleep(0.001)


async def leave_a_task_behind(marker: str) -> None:
    async def later() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            Path(marker).touch()

    leftover = asyncio.get_running_loop().create_task(later())
    await asyncio.sleep(0)
    del leftover


# Forks


def fork_and(ctx: JobContext, how: str) -> int:
    """Both processes come back from here, except that the new one may raise."""
    pid = os.fork()
    if pid == 0:
        ctx.report(99, 100)
        logging.getLogger("tests.child").warning("from the fork")
        if how == "raise":
            raise ValueError("in the fork")
        if how == "exit":
            raise SystemExit(7)
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_terminate() -> int:
    """How the fork ends of a SIGTERM that comes once it runs."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"x")
        time.sleep(60)
    os.read(reader, 1)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Reports


def report_steps(ctx: JobContext, count: int) -> None:
    for number in range(count):
        ctx.report(number + 1, count, step=f"step {number + 1}")
        ctx.record_metric("number", number)


def report_and_wait(ctx: JobContext, release: str) -> None:
    ctx.report(1, 3)
    ctx.report(2, 3, step="held back")
    while not Path(release).exists():
        time.sleep(0.002)


def log_lines(count: int) -> None:
    logger = logging.getLogger("tests.child")
    for number in range(count):
        logger.info("line %d", number)


def log_exception() -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("tests.child").exception("it failed")
    logging.getLogger("tests.child").debug("not wanted")


def log_badly() -> None:
    logging.getLogger("tests.child").info("%d", "not a number")


def write_output(text: str, *, raw: bool = False) -> None:
    if raw:
        os.write(1, text.encode())
        os.write(2, text.encode())
    else:
        print(text)
        print(text, file=sys.stderr)


def misuse_stdout(how: str) -> None:
    if how == "close":
        sys.stdout.close()
    elif how == "replace":
        sys.stdout = io.StringIO()
    elif how == "wrap":
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, write_through=True)
    else:
        sys.stdout = None


def write_much(lines: int) -> None:
    for number in range(lines):
        print(f"line {number}")


def complain_and_die(lines: int) -> None:
    for number in range(lines):
        print(f"complaint {number}", file=sys.stderr)
    os._exit(9)


# Memory


def allocate(mebibytes: int) -> int:
    return len(bytearray(mebibytes << 20))


def hoard(mebibytes: int) -> None:
    global _hoard
    _hoard = b"x" * (mebibytes << 20)


_hoard = b""


def hoard_shared(mebibytes: int) -> None:
    with mmap.mmap(-1, mebibytes << 20) as shared:
        for page in range(0, len(shared), mmap.PAGESIZE):
            shared[page] = 1
        time.sleep(60)


class Block:
    """A large value whose memory pickle protocol 5 can leave where it is, as NumPy's arrays do."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, tuple[Any, ...]]:
        return Block, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]


def reverse_block(block: Block) -> Block:
    block.data[0], block.data[-1] = block.data[-1], block.data[0]
    return block


def echo(value: Any) -> Any:
    return value


def die_with_block(block: Block) -> None:
    os._exit(5)


# Setup


@contextlib.contextmanager
def model(directory: str) -> Iterator[str]:
    entered = Path(directory, f"entered-{os.getpid()}")
    entered.touch()
    yield f"model of {os.getpid()}"
    entered.with_name(f"left-{os.getpid()}").touch()


def broken_setup(directory: str) -> NoReturn:
    Path(directory, f"tried-{time.monotonic_ns()}").touch()
    raise RuntimeError("no connection")


def repaired_setup(directory: str) -> str:
    """Fails until a file called `ready` is there."""
    if not Path(directory, "ready").exists():
        raise RuntimeError("not yet")
    return "ready"


def slow_setup() -> None:
    time.sleep(0.5)


def first_setup_is_slow(directory: str) -> None:
    """In the first child it takes 4 s; `warm` is written a while after that child said so."""
    started, warm = Path(directory, "started"), Path(directory, "warm")
    if not started.exists():
        started.write_text(str(os.getpid()))
        time.sleep(4)
        threading.Timer(0.5, warm.write_text, ["yes"]).start()


def endless_setup(started: str) -> None:
    Path(started).write_text(str(os.getpid()))
    time.sleep(60)


def plain_setup() -> str:
    return "plain"


# What a child cannot import


nameless = task(name="nameless")(lambda: None)


def make_closure() -> Callable[[], int]:
    number = 1

    def closure() -> int:
        return number

    return closure


add_two = functools.partial(add, 2)


def count_threads() -> int:
    return threading.active_count()


def uses_faulthandler() -> bool:
    return faulthandler.is_enabled()
