"""The functions that a node of Vera's cluster offers, by their names: nothing else can be run.

WORKER_IMPORT=cluster_tasks WORKER_DIALECTS=vera worker-runtime run
"""

from __future__ import annotations

import asyncio
import statistics


def analyze_data(*numbers: float, mode: str = "fast") -> dict[str, float]:
    """Mean and spread of some numbers; `mode="robust"` takes the median for the mean."""
    centre = statistics.median if mode == "robust" else statistics.fmean
    return {"centre": centre(numbers), "spread": statistics.pstdev(numbers)}


async def process_data(*items: int, mode: str = "fast") -> list[int]:
    """Each item squared, `mode="slow"` with a pause for each."""
    squares = []
    for item in items:
        await asyncio.sleep(0.1 if mode == "slow" else 0)
        squares.append(item * item)
    return squares


def tool_call(tool_name: str, tool_input: dict[str, float]) -> float:
    """The orchestrator's `tool_call`, for the two tools that there are."""
    if tool_name == "add":
        return sum(tool_input.values())
    if tool_name == "largest":
        return max(tool_input.values())
    raise ValueError(f"no tool {tool_name!r}; tools: add, largest")
