r"""A task of one's own behind the sandbox's `POST /task`: real work in place of the simulated one.

    PORT=8090 worker-runtime run tasks
    curl -H 'Content-Type: application/json' -d '{"id": "a", "weight": 2.5}' \
        http://127.0.0.1:8090/task
"""

from __future__ import annotations

import hashlib

from worker_runtime import task

ROUNDS_PER_WEIGHT = 200_000
WEIGHT_MAX = 100.0  # a thread cannot be stopped in the middle of a derivation


# In a thread: PBKDF2 runs outside Python's global lock, so that the event loop stays free.
@task(name="task", run_in="thread", timeout_s=25)
def derive_key(*, id: str = "", weight: float = 1.0) -> str:
    """A key derived from `id`, with work in proportion to `weight`."""
    rounds = max(1, int(ROUNDS_PER_WEIGHT * min(weight, WEIGHT_MAX)))
    return hashlib.pbkdf2_hmac("sha256", id.encode(), b"sandbox", rounds).hex()
