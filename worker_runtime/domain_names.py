"""The words for a domain of operations: its type for the backend, and how its ids begin."""

from __future__ import annotations

import functools
import re

# The backend's own enumerations; any other domain is called what it is, with underscores.
_TYPES = {
    "assessments": "agent_assessment",
    "backtests": "backtesting",
    "designs": "agent_design",
    "training": "training",
}


@functools.lru_cache(maxsize=256)
def type_of(domain: str) -> str:
    """The operation type of a domain, which is also its worker type."""
    return _TYPES.get(domain) or re.sub(r"[^a-z0-9]+", "_", domain.lower()).strip("_")


@functools.lru_cache(maxsize=256)
def id_prefix(domain: str) -> str:
    """How generated ids of a domain begin: `worker_dp_` for `data-processing`, `worker_training_`
    for a single word."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", domain) if word]
    short = "".join(word[0] for word in words) if len(words) > 1 else domain
    return f"worker_{short.lower()}_"
