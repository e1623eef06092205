"""kill -9 at random and at chosen moments breaks no promise; and the checks would see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import ROOT
from tests.whole.faults.crash import Crashes
from tests.whole.faults.crash_worker import BREAKS
from tests.whole.faults.ledger import Ledger
from tests.whole.faults.strace import STRACE, needs_strace
from worker_runtime.stores.sqlite.file.writer import EXIT_STATUS_FATAL


@pytest.mark.timeout(240)
def test_no_promise_is_broken_by_kills_at_random(tmp_path: Path) -> None:
    """A dozen, or as many as a slow machine needs to have something to lose; `make soak` kills a
    thousand times."""
    crashes = Crashes(tmp_path / "jobs.db", seed=20_240_229)
    ledger, kills = crashes.ledger, 0
    while kills < 12 or len(ledger.acknowledged) < 40 or ledger.recoveries < 5:
        crashes.cycle()
        kills += 1
    assert crashes.finish() == [], ledger.figures()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("acknowledge_before_commit", "acknowledged and lost"),
        ("forget_the_attempt", "runs again after a crash although it asked not to"),
        ("show_before_commit", "after it was"),
    ],
)
def test_a_store_that_breaks_its_promise_is_caught(tmp_path: Path, broken: str, words: str) -> None:
    assert broken in BREAKS
    crashes = Crashes(tmp_path / "jobs.db", seed=1, broken=broken)
    for cycles in (2, 6, 12):
        for _ in range(cycles):
            crashes.cycle()
        if any(words in problem for problem in crashes.finish()):
            return
    pytest.fail(f"not seen in {crashes.ledger.figures()}")


def traced(path: Path, *inject: str, ack: str = "durable") -> tuple[int, bytes]:
    """A life of the worker that strace ends by tampering with its system calls: exit status,
    ledger. Left alone it would end by itself after many more calls, also on a slow machine."""
    assert STRACE is not None
    worker = [sys.executable, "-m", "tests.whole.faults.crash_worker", str(path), "--ack", ack]
    short = ["--callers", "4", "--run-s", "30"]
    life = subprocess.run(
        [STRACE, "-f", "-qq", "-o", "/dev/null", *inject, *worker, *short],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=100,
    )
    return life.returncode, life.stdout


def finished(path: Path, ledger: Ledger) -> list[str]:
    crashes = Crashes(path, seed=0)
    crashes.ledger = ledger
    return crashes.finish()


@needs_strace
@pytest.mark.timeout(900)  # 48 processes, half of them traced
def test_a_kill_at_each_fdatasync_of_a_short_run_breaks_nothing(tmp_path: Path) -> None:
    for number in (*range(1, 11), 14, 19, 24):
        ledger = Ledger()
        path = tmp_path / f"{number}.db"
        status, lines = traced(path, "-e", f"inject=fdatasync:signal=KILL:when={number}")
        assert status != 0
        ledger.read(lines)
        assert finished(path, ledger) == [], f"killed at fdatasync {number}"


@needs_strace
@pytest.mark.parametrize("when", ["12", "12+"])
def test_a_failed_fsync_once_or_for_good_ends_the_process(tmp_path: Path, when: str) -> None:
    path = tmp_path / "jobs.db"
    inject = ["-e", f"inject=fdatasync,fsync:error=EIO:when={when}"]
    status, lines = traced(path, *inject)
    assert status == EXIT_STATUS_FATAL
    ledger = Ledger()
    ledger.read(lines)
    assert ledger.acknowledged
    assert finished(path, ledger) == []
