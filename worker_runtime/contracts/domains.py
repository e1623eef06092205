"""The words that workers of operations and their backend share: the type of a domain, how ids and
names begin, and where the backend has its API."""

from __future__ import annotations

import functools
import re
import secrets

# Where a backend has its API; its address may be given with or without.
API_PREFIX = "/api/v1"

# The backend's own enumerations; any other domain is called what it is, with underscores.
_TYPES = {
    "assessments": "agent_assessment",
    "backtests": "backtesting",
    "designs": "agent_design",
    "training": "training",
}
_WORKER_TYPES = frozenset(_TYPES.values()) | {"cpu_training", "gpu_host"}
# An agent's operation is a child of the research that asked for it, under an id of its own.
_AGENTS = {"assessments": "op_assessment_", "designs": "op_design_"}
# How a name begins that was made up for a worker of which no type was known.
_UNTYPED_NAME = re.compile(r"^worker-worker-(?=[0-9a-f]{8}$)")


def base_url(backend_url: str) -> str:
    """The backend's address without a trailing slash and without the API's own prefix."""
    return backend_url.rstrip("/").removesuffix(API_PREFIX).rstrip("/")


def made_up_name(worker_type: str | None) -> str:
    """A name for a worker that was given none: a backend keeps its workers by name, so that two
    with one default name would count as one."""
    return f"{worker_type or 'worker'}-worker-{secrets.token_hex(4)}"


def typed_name(name: str, worker_type: str) -> str:
    """`name`, where it was made up before the worker's type was known, with that type in it."""
    return _UNTYPED_NAME.sub(f"{worker_type}-worker-", name)


@functools.lru_cache(maxsize=256)
def type_of(domain: str) -> str:
    """The operation type of a domain, which is also its worker type."""
    return _TYPES.get(domain) or re.sub(r"[^a-z0-9]+", "_", domain.lower()).strip("_")


@functools.lru_cache(maxsize=256)
def id_prefix(domain: str) -> str:
    """How generated ids of a domain begin: `worker_dp_` for `data-processing`, `worker_training_`
    for a single word, `op_design_` for an agent's."""
    if domain in _AGENTS:
        return _AGENTS[domain]
    words = [word for word in re.split(r"[^A-Za-z0-9]+", domain) if word]
    short = "".join(word[0] for word in words) if len(words) > 1 else domain
    return f"worker_{short.lower()}_"


def is_agent(domain: str | None) -> bool:
    """Whether a start request's `task_id` is that of the parent, not of the operation itself."""
    return domain in _AGENTS


def service_of(worker_type: str) -> tuple[str, str]:
    """What a worker of that type calls itself in `/health` and at `/`. The backend's own workers
    write their type as it is, the guide's with hyphens."""
    if worker_type in _WORKER_TYPES:
        return f"{worker_type}-worker", f"{worker_type.title()} Worker Service"
    short, name = worker_type.replace("_", "-"), worker_type.replace("_", " ").title()
    if worker_type == "worker":  # no domain to be named for
        return short, f"{name} Service"
    return f"{short}-worker", f"{name} Worker Service"
