"""What a worker tells its backend that it can do."""

from __future__ import annotations

from worker_runtime.clock.source import SYSTEM
from worker_runtime.services.resources import Resources, gpu
from worker_runtime.web.operations.capabilities import capabilities


def test_what_a_worker_offers_is_measured() -> None:
    offered = capabilities(Resources(SYSTEM, interval_s=60).latest, ["a"])
    assert offered["cores"] >= 1
    assert offered["memory_gb"] > 0
    assert offered["tasks"] == ["a"]
    assert offered["gpu"] is (gpu() is not None)
