"""The outbox: ends of attempts on their way to Redis, in order, kept until they are written."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Set
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.stores.redis.leases import Lease
from worker_runtime.stores.redis.location import (
    RedisLocation,
    close_client,
    drop_connections,
    end_tasks,
)
from worker_runtime.stores.redis.script import Script, is_passing, may_have_happened, pack

logger = logging.getLogger("worker_runtime.redis")

_PER_CALL_MAX = 100
_BACKOFF_FIRST_S = 0.05
_BACKOFF_MAX_S = 1.0


class Finish(msgspec.Struct, gc=False, eq=False):
    """How one attempt ended, as it is to be written.

    again        '' ended; else the score at which it runs again (Unix ms), or '=' the one it had
    tries_after  the retry counter from now on; `crashes_after` how often its worker died so far
    result       the encoded result; b'' to keep none. `ttl_ms` 0: for ever
    hold_ms      how long an ended job still counts as in progress
    done         called with whether it was written; False: the job is not ours any more
    """

    lease: Lease
    done: Callable[[bool], None]
    again: str = ""
    tries_after: int = 0
    crashes_after: int = 0
    result: bytes = b""
    ttl_ms: int = 0
    hold_ms: int = 0
    is_repeated: bool = False


class Outbox:
    """Writes finishes in batches, one script call at a time.

    Guarantees: an end is written or found superseded, in the order of `put`; while Redis cannot, it
    is kept and tried again, and `failure` says why.
    """

    _wall: Callable[[], float]  # from the start on; nothing is written before

    def __init__(self, location: RedisLocation) -> None:
        self._location = location
        self._client: Any = None
        self._script = Script("finish")
        self._waiting: deque[Finish] = deque()
        self._batch: list[Finish] = []
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._answered = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.failure: str | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._batch)

    def start(self, clock: Clock) -> None:
        self._wall = clock.wall
        self._client = self._location.connect(single_connection_client=True)
        self._writer = asyncio.get_running_loop().create_task(self._run(), name="redis-outbox")

    def put(self, finish: Finish) -> None:
        self._waiting.append(finish)
        self._emptied.clear()
        self._filled.set()

    async def told(self, job_ids: Set[str]) -> None:
        """Wait until no end of these jobs is on its way any more.

        A claim has a connection of its own: it may hear of a job that was put back before the
        answer arrives that says so.
        """
        while any(f.lease.job_id in job_ids for f in (*self._batch, *self._waiting)):
            self._answered.clear()
            await self._answered.wait()

    async def close(self, within_s: float) -> None:
        """Write what is left for at most `within_s` seconds. What is not written by then runs
        again once its lease has ended."""
        try:
            async with asyncio.timeout(within_s):
                await self._emptied.wait()
        except TimeoutError:
            logger.error("%d results could not be written: Redis does not answer", len(self))
        if self._writer is not None:
            await end_tasks([self._writer])
            await close_client(self._client)

    async def _run(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while True:
            await self._filled.wait()
            if not self._batch:
                while self._waiting and len(self._batch) < _PER_CALL_MAX:
                    self._batch.append(self._waiting.popleft())
            if not self._batch:
                self._filled.clear()
                self._emptied.set()
                continue
            try:
                answers = await self._write(self._batch)
            except Exception as error:
                if not is_passing(error):
                    self._narrow(error)
                    continue
                await self._failed(error, backoff_s)
                backoff_s = min(_BACKOFF_MAX_S, backoff_s * 2)
                continue
            if self.failure is not None:
                self.failure = None
                logger.warning("results are written to Redis again")
            backoff_s = _BACKOFF_FIRST_S
            self._settle(answers)

    async def _write(self, batch: list[Finish]) -> list[int]:
        packed = pack(field for finish in batch for field in _fields(finish))
        now_ms = round(self._wall() * 1000)
        answers: list[int] = await self._script.call(self._client, now_ms, packed)
        return answers

    async def _failed(self, error: Exception, backoff_s: float) -> None:
        if self.failure is None:
            self.failure = f"Redis cannot take results: {error}"
            logger.warning("results wait in memory, Redis cannot take them: %s", error)
        if may_have_happened(error):
            for finish in self._batch:
                finish.is_repeated = True
        await drop_connections(self._client)
        await asyncio.sleep(backoff_s)

    def _narrow(self, error: Exception) -> None:
        """One of the batch makes the script fail: halve it until it is found, and drop that one."""
        if len(self._batch) == 1:
            lease = self._batch[0].lease
            logger.error("job %s: its end cannot be written: %s", lease.job_id, error)
            self._settle([0])
            return
        for finish in self._batch:  # those before the culprit were written
            finish.is_repeated = True
        half = len(self._batch) // 2
        rest, self._batch = self._batch[half:], self._batch[:half]
        self._waiting.extendleft(reversed(rest))

    def _settle(self, answers: list[int]) -> None:
        batch, self._batch = self._batch, []
        for finish, answer in zip(batch, answers, strict=True):
            try:
                finish.done(answer == 1)
            except Exception:
                logger.exception("job %s: its end could not be shown", finish.lease.job_id)
        self._answered.set()
        if not self._waiting:
            self._emptied.set()


def _fields(finish: Finish) -> tuple[str | bytes, ...]:
    lease = finish.lease
    return (
        lease.job_id,
        lease.queue_key,
        lease.token,
        str(lease.tries),
        finish.again,
        str(finish.tries_after),
        str(finish.crashes_after),
        finish.result,
        str(finish.ttl_ms),
        str(finish.hold_ms),
        "1" if finish.is_repeated else "0",
    )
