"""What each contender's script shares: its tasks' bodies, which also measure. Standard library
only, because each script runs in the environment of its own contender."""

from __future__ import annotations

import os
import sys
import time

VERB, PORT = sys.argv[1], int(sys.argv[2])
COUNT = int(sys.argv[3])
SLOTS = int(sys.argv[4])
URL = f"redis://127.0.0.1:{PORT}"

waits_for_writes = False  # set by a contender that runs ahead of its writes: it calls `written`
_started_at = 0.0
_done = 0
_latencies: list[float] = []


def begin() -> None:
    """A job starts; the first one starts the clock."""
    global _started_at
    if not _started_at:
        _started_at = time.perf_counter()


def end() -> None:
    """A job ends; the last one prints the seconds that all took, and ends the process."""
    global _done
    _done += 1
    if _done == COUNT and not waits_for_writes:
        written()


def all_ended() -> bool:
    return _done == COUNT


def written() -> None:
    """The end of the last job is in Redis too."""
    _leave(str(time.perf_counter() - _started_at))


def picked_up(enqueued_at: float) -> None:
    """A job of the latency run starts; after the last one all latencies are printed."""
    _latencies.append(time.time() - enqueued_at)
    if len(_latencies) == COUNT:
        _leave(" ".join(map(str, _latencies)))


def _leave(text: str) -> None:
    print(text, flush=True)
    os._exit(0)
