"""What a worker tells its backend that it can do, measured: the backend chooses by it.

The names are those that KTRDR's backend reads from a registration (`gpu` decides who trains) and
its command line shows; `tasks` is ours.
"""

from __future__ import annotations

import platform
from typing import Any

from worker_runtime.services.resources import ResourceSample, gpu


def capabilities(sample: ResourceSample, task_names: list[str]) -> dict[str, Any]:
    """What this worker offers, measured: the object that it registers with."""
    found = gpu()
    offered: dict[str, Any] = {
        "cores": sample.cpu_cores,
        "memory_gb": round(sample.memory_total_bytes / (1 << 30), 1),
        "gpu": found is not None,
        "platform": platform.system(),
        "python_version": platform.python_version(),
        "tasks": task_names,
    }
    if found is not None:
        offered["gpu_type"], offered["gpu_count"] = found
    return offered
