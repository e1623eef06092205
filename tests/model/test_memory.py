"""The runtime in memory does what the reference predicts."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.model.machine import RuntimeMachine

TestMemory = RuntimeMachine.TestCase
TestMemory.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
