"""The workers of a fleet as its front knows them: who registered, and how each one is.

Plain data and decisions. Nothing here talks to a worker, and nothing that a worker says is trusted
further than it is checked.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from worker_runtime.clock.source import Clock
from worker_runtime.contracts.registration import Registration

MEMBERS_MAX = 1000


class Status(enum.StrEnum):
    """The registry's words, as its guide prints them."""

    AVAILABLE = "AVAILABLE"
    BUSY = "BUSY"
    TEMPORARILY_UNAVAILABLE = "TEMPORARILY_UNAVAILABLE"


class Load(msgspec.Struct, frozen=True):
    """What a worker's health said about its load; 0 for what it did not say or lied about."""

    active: float = 0.0
    waiting: float = 0.0
    cpu_percent: float = 0.0
    memory_percent: float = 0.0


class Member:
    """One worker, that is well at `now` (Unix seconds)."""

    def __init__(
        self, worker_id: str, worker_type: str, url: str, *, is_fixed: bool, now: float
    ) -> None:
        self.id = worker_id
        self.type = worker_type
        self.url = url.rstrip("/")
        self.is_fixed = is_fixed
        self.status = Status.AVAILABLE
        self.capabilities: dict[str, Any] = {}
        self.current_operation_id: str | None = None
        self.load = Load()
        self.failures = 0
        self.failure_text: str | None = None
        self.checked_at: float | None = None
        self.healthy_at = now
        self.latency_s: float | None = None
        self.in_flight = 0
        self.chosen_count = 0
        self.credit = 0.0

    @property
    def weight(self) -> float:
        """The share that the weighted choice gives it: what it registered, or its cores."""
        for name in ("weight", "cores"):
            found = _number(self.capabilities.get(name))
            if found > 0:
                return min(found, 1000.0)
        return 1.0

    def serves(self, kind: str, domain: str | None) -> bool:
        """Whether it is of that type, or says that it has the domain; one that is known by its URL
        alone says nothing and may."""
        if self.is_fixed:
            return True
        domains = self.capabilities.get("domains")
        has_domain = isinstance(domains, list) and domain in domains
        return self.type.replace("-", "_") == kind.replace("-", "_") or has_domain

    def document(self) -> dict[str, Any]:
        """The worker record that the registry answers with."""
        return {
            "worker_id": self.id,
            "worker_type": self.type,
            "endpoint_url": self.url,
            "status": self.status,
            "current_operation_id": self.current_operation_id,
            "capabilities": self.capabilities,
            "last_health_check": _utc(self.checked_at),
            "last_healthy_at": _utc(self.healthy_at),
            "health_check_failures": self.failures,
            "metadata": {
                "active_tasks": self.load.active,
                "queue_size": self.load.waiting,
                "cpu_percent": self.load.cpu_percent,
                "memory_percent": self.load.memory_percent,
                "last_failure": self.failure_text,
            },
        }


class Members:
    """The registry. `failures_max` failed checks in a row make a worker unavailable, and after
    `removal_s` without a good one it is dropped, unless its URL was given by hand."""

    def __init__(self, clock: Clock, *, failures_max: int, removal_s: float) -> None:
        self._wall = clock.wall
        self._failures_max = failures_max
        self._removal_s = removal_s
        self._members: dict[str, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)

    def get(self, worker_id: str) -> Member | None:
        return self._members.get(worker_id)

    def add_fixed(self, url: str) -> Member:
        """A worker known by its URL alone."""
        member = Member(url.rstrip("/"), "worker", url, is_fixed=True, now=self._wall())
        self._members[member.id] = member
        return member

    def register(self, given: Registration) -> Member | None:
        """Take the worker in, or up again: it is well, and at this URL now. Another worker that had
        the URL is gone. None where the registry is full."""
        url = given.endpoint_url.rstrip("/")
        for other in list(self._members.values()):
            if other.url == url and other.id != given.worker_id:
                del self._members[other.id]
        member = self._members.get(given.worker_id)
        if member is None:
            if len(self._members) >= MEMBERS_MAX:
                return None
            member = Member(
                given.worker_id, given.worker_type, url, is_fixed=False, now=self._wall()
            )
            self._members[member.id] = member
        member.url = url
        member.capabilities = given.capabilities or {}
        member.status = Status.AVAILABLE
        member.current_operation_id = given.current_operation_id
        member.failures = 0
        member.failure_text = None
        member.healthy_at = self._wall()
        return member

    def remove(self, worker_id: str) -> bool:
        return self._members.pop(worker_id, None) is not None

    def healthy(self, member: Member, health: dict[str, Any]) -> None:
        """A good check: the worker's own words about itself."""
        member.checked_at = member.healthy_at = self._wall()
        member.failures = 0
        member.failure_text = None
        busy = health.get("worker_status") == "busy"
        member.status = Status.BUSY if busy else Status.AVAILABLE
        current = health.get("current_operation") if busy else None
        member.current_operation_id = current[:128] if isinstance(current, str) else None
        member.load = Load(
            active=_number(health.get("active_tasks", health.get("currentLoad"))),
            waiting=_number(health.get("queue_size", health.get("queueDepth"))),
            cpu_percent=min(100.0, _number(health.get("cpu_percent"))),
            memory_percent=min(100.0, _number(health.get("memory_percent"))),
        )

    def failed(self, member: Member, text: str) -> None:
        """A failed check."""
        member.checked_at = self._wall()
        member.failures += 1
        member.failure_text = text[:200]
        if member.failures >= self._failures_max:
            member.status = Status.TEMPORARILY_UNAVAILABLE
            gone_s = self._wall() - member.healthy_at
            if gone_s > self._removal_s and not member.is_fixed:
                self._members.pop(member.id, None)


def _number(value: Any) -> float:
    """A load figure that can be reckoned with; 0 for anything else."""
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return 0.0


def _utc(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
