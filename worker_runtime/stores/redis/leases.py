"""Leases: the in-progress keys of the jobs that this process holds, renewed from a thread.

A thread with a connection of its own, because a job that blocks the event loop must not lose its
lease, and with it its right to finish.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from worker_runtime.stores.redis.location import RedisLocation
from worker_runtime.stores.redis.script import REDIS_ERRORS, Script, pack

logger = logging.getLogger("worker_runtime.redis")

_PER_CALL_MAX = 500
_RETRY_S = 0.5


class Lease(msgspec.Struct, gc=False, eq=False):
    """A claimed job in this process's hands.

    token      the value of its in-progress key: this process and this claim
    tries      the value of its retry counter while it is held
    score      when it was due, Unix ms, as the queue had it
    is_ending  the end of the attempt is on its way to Redis
    successor  what this process claimed of the same job meanwhile
    """

    job_id: str
    queue_key: str
    token: str
    tries: int
    score: int
    enqueued_ms: int = 0
    is_ending: bool = False
    successor: Lease | None = None


class LeaseKeeper:
    """Renews every held lease about four times within its time to live.

    `held` belongs to the event loop; the thread only copies it. `on_lost` is called in the thread
    with the leases that somebody else holds now, and that may have ended by the time they are read.
    """

    def __init__(
        self, location: RedisLocation, *, lease_s: float, on_lost: Callable[[list[Lease]], None]
    ) -> None:
        self.held: dict[str, Lease] = {}
        self._location = location
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._renew = Script("renew")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="worker-runtime-leases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew nothing more. Returns once the thread has ended, within about a second."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            self._thread = None

    def _run(self) -> None:
        client: Any = None
        wait_s = self._lease_s / 4
        while not self._stopping.wait(wait_s):
            wait_s = self._lease_s / 4
            leases = list(self.held.copy().values())
            if not leases:
                continue
            try:
                if client is None:
                    client = self._location.connect_blocking(self._lease_s)
                for start in range(0, len(leases), _PER_CALL_MAX):
                    self._renew_some(client, leases[start : start + _PER_CALL_MAX])
            except REDIS_ERRORS as error:
                logger.warning("leases not renewed, trying again: %s", error)
                _close(client)
                client = None
                wait_s = _RETRY_S
        _close(client)

    def _renew_some(self, client: Any, leases: list[Lease]) -> None:
        packed = pack(
            field
            for lease in leases
            for field in (lease.job_id, lease.queue_key, lease.token, str(lease.tries))
        )
        lease_ms = int(self._lease_s * 1000)
        tokens = {lease.job_id: lease.token for lease in leases}
        lost_ids = {i.decode() for i in self._renew.call_blocking(client, lease_ms, packed)}
        held = self.held.copy()
        lost = [
            lease
            for lease in leases
            if lease.job_id in lost_ids
            and lease.token == tokens[lease.job_id]
            and is_in_hand(held, lease)
        ]
        if lost and not self._stopping.is_set():
            self._on_lost(lost)


def is_in_hand(held: dict[str, Lease], lease: Lease) -> bool:
    """Whether the attempt goes on under this lease. Redis knows no lease of a job that has ended,
    been put back or been claimed anew while an answer was on its way; such a one is not lost."""
    return held.get(lease.job_id) is lease and not lease.is_ending and lease.successor is None


def _close(client: Any) -> None:
    if client is not None:
        try:
            client.close()
        except REDIS_ERRORS:
            pass
