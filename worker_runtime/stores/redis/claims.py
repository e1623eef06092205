"""Claims: one script call takes due jobs, unless it comes too late to know whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from worker_runtime.clock.source import Clock
from worker_runtime.stores.redis.leases import Lease, LeaseKeeper
from worker_runtime.stores.redis.location import drop_connections
from worker_runtime.stores.redis.manner import Claimed, Claims
from worker_runtime.stores.redis.script import Script, may_have_happened

_LOOK_MAX = 20_000
_LOOK_ONLY = 0  # a time that has passed: the script takes nothing


class ClaimCalls:
    """Calls the claim script for one process.

    Guarantees: the jobs of a claim whose answer was lost are found again by the next one; no job
    that this process holds is handed out a second time.

    After Redis stood still or was away for long enough that leases may have run out, the first
    claim takes nothing and says `is_late`: workers that are alive write their results and renew
    their leases first.
    """

    def __init__(
        self, client: Any, leases: LeaseKeeper, clock: Clock, *, owner: str, lease_s: float
    ) -> None:
        self._client = client
        self._clock = clock
        self._leases = leases
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._late_after_s = lease_s / 4  # leases are renewed so often: none has run out by then
        self._script = Script("claim")
        self._number = 0
        self._unanswered = ""
        self._away_since: float | None = None
        self._was_late = False
        self._server_ahead_s: float | None = None  # its wall clock over our monotonic one

    def note_unanswered(self, token: str) -> None:
        """The answer to a claim was lost: its jobs, if any, are taken by the next claim."""
        self._unanswered = self._unanswered or token

    async def take(self, keys: Sequence[tuple[int, str]], limit: int, unknown_key: str) -> Claims:
        """Take up to `limit` due jobs of a queue. Raises redis errors."""
        self._number += 1
        token = f"{self._owner}:{self._number}"
        sent_at = self._clock.monotonic()
        try:
            waiting, next_score, found, server_ms = await self._script.call(
                self._client,
                limit,
                token,
                self._lease_ms,
                round(self._clock.wall() * 1000),
                self._unanswered,
                unknown_key,
                _LOOK_MAX,
                self._latest_ms(sent_at),
                *(key for _, key in keys),
            )
        except BaseException as error:
            if may_have_happened(error):
                self.note_unanswered(token)
            if not isinstance(error, asyncio.CancelledError):
                self._away_since = self._away_since or sent_at
                await drop_connections(self._client)
            raise
        self._away_since = None
        self._set_clock(sent_at, server_ms / 1000)
        self._was_late = waiting < 0
        if self._was_late:
            return Claims([], 0, None, is_late=True)
        self._unanswered = ""
        jobs = [job for entry in found if (job := self._claimed(entry, keys, token)) is not None]
        return Claims(jobs, waiting, None if next_score is None else float(next_score) / 1000)

    def _latest_ms(self, now: float) -> int | str:
        """Until when, by the server's clock, the claim may take jobs; '' at any time."""
        if self._was_late:  # once is enough: latency may be here to stay
            return ""
        if self._away_since is not None and now - self._away_since > self._late_after_s:
            return _LOOK_ONLY
        if self._server_ahead_s is None:
            return ""
        return round((now + self._server_ahead_s + self._late_after_s) * 1000)

    def _set_clock(self, sent_at: float, server_s: float) -> None:
        taken_s = self._clock.monotonic() - sent_at
        if taken_s < self._late_after_s / 2:
            self._server_ahead_s = server_s - (sent_at + taken_s / 2)

    def _claimed(
        self, entry: list[Any], keys: Sequence[tuple[int, str]], token: str
    ) -> Claimed | None:
        job_id, number, score, tries, payload, abort_score, crashes = entry
        priority, key = keys[number - 1]
        lease = Lease(job_id.decode(), key, token, tries, int(float(score)))
        held = self._leases.held.get(lease.job_id)
        if held is not None:  # its lease had run out, or its retry was claimed at once
            self._take_up(held, lease)
            return None
        self._leases.held[lease.job_id] = lease
        abort_ms = None if abort_score is None else int(float(abort_score))
        return Claimed(lease, payload, priority, abort_ms, crashes)

    def _take_up(self, held: Lease, lease: Lease) -> None:
        if held.is_ending:
            held.successor = lease
        else:
            held.token, held.tries = lease.token, lease.tries
