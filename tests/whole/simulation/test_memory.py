"""The runtime in memory does what the reference predicts."""

from __future__ import annotations

from hypothesis import settings

from tests.whole.simulation.machine import RuntimeMachine

TestMemory = RuntimeMachine.TestCase
TestMemory.settings = settings(
    max_examples=50,
    stateful_step_count=40,
)
