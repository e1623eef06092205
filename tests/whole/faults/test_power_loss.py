"""A power cut at any moment: what was acknowledged, started and shown is on the disk."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.support.sqlite_stores import make_store, rows
from tests.whole.faults.power_loss import Call, lines_until, restore, trace
from tests.whole.faults.strace import STRACE, needs_strace

POINTS = 60
WAITING = {"queued", "scheduled", "running"}


async def broken_promises(calls: list[Call], at: float, directory: Path) -> list[str]:
    """Open the file as a power cut at `at` left it; say what it should hold and does not."""
    store = make_store(directory)
    await store.open()
    await store.close()
    kept = {row[0]: row[1:] for row in rows(store, "id, state, attempt")}
    found = []
    for kind, *words in lines_until(calls, at):
        if kind == "R" or kind == "E" or kind == "F":
            continue
        job_id = words[0]
        if job_id not in kept:
            found.append(f"{job_id} is lost after {kind}")
            continue
        state, attempt = kept[job_id]
        if kind == "S" and attempt < int(words[1]):
            found.append(f"{job_id} ran attempt {words[1]}, {attempt} is recorded")
        if kind == "T" and state != words[1]:
            found.append(f"{job_id} was shown {words[1]}, {state} is recorded")
    return found


async def cut(tmp_path: Path, ack: str, seed: int) -> list[str]:
    """Cut the power at many moments of one life; all promises that were broken."""
    assert STRACE is not None
    moments: list[float] = []
    for run_s in (0.3, 2, 10):  # a slow machine needs longer for as much
        life = tmp_path / f"life-{run_s}"
        life.mkdir()
        calls = trace(STRACE, life, ack, run_s)
        opened_at = next(c.ended_at for c in calls if c.path == "ledger" and c.data == b"R\n")
        moments = [call.ended_at for call in calls if call.ended_at >= opened_at]
        if len(moments) > 2 * POINTS:
            break
    assert len(moments) > POINTS
    chance = random.Random(seed)
    found = []
    for number, at in enumerate(chance.sample(moments, POINTS)):
        directory = tmp_path / f"cut-{number}"
        directory.mkdir()
        restore(calls, at, chance, directory)
        found += await broken_promises(calls, at, directory)
        shutil.rmtree(directory)
    return found


@needs_strace
async def test_a_power_cut_breaks_no_promise(tmp_path: Path) -> None:
    assert await cut(tmp_path, "durable", seed=7) == []


@needs_strace
async def test_the_check_sees_a_store_that_does_not_sync(tmp_path: Path) -> None:
    found = await cut(tmp_path, "os", seed=7)
    assert any("is lost after A" in problem for problem in found)
