"""Kill a worker with -9 at random points of a burst, over and over, and check what it promised.

    python -m tests.whole.faults.crash --cycles 1000

Some lives are killed while they recover, some several times in a row. Exits 1 when a promise was
broken, and keeps the file then. Ends with the figures, and the bound they put on the chance that a
kill breaks a promise (95 %, the rule of three).
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.helpers import ROOT
from tests.whole.faults.ledger import Ledger

_START_S = 30.0
_LAST_LIFE_S = 120.0


class Crashes:
    """Lives of a worker on one file, killed one after the other."""

    def __init__(
        self, path: Path, seed: int, *, ack: str = "durable", broken: str | None = None
    ) -> None:
        self.path = path
        self.ledger = Ledger()
        self._chance = random.Random(seed)
        self._options = ["--ack", ack, *(["--break", broken] if broken else [])]

    def cycle(self) -> None:
        """One life that ends by SIGKILL."""
        with self._started() as (worker, ledger):
            if self._chance.random() < 0.75:
                _wait_open(worker, ledger)
                time.sleep(self._chance.random() * 0.3)
            else:  # killed while it starts or recovers
                time.sleep(0.1 + self._chance.random() * 0.4)
            worker.kill()
            worker.wait()
            self.ledger.read(ledger.read_bytes())

    def finish(self) -> list[str]:
        """A last life that runs everything to its end; then what was broken."""
        report = self.path.with_suffix(".report")
        report.write_text("\n".join(self.ledger.jobs))
        with self._started("--callers", "0", "--report", str(report)) as (worker, ledger):
            if worker.wait(_LAST_LIFE_S) != 0:
                raise AssertionError(f"the last life ended with {worker.returncode}")
            self.ledger.read(ledger.read_bytes())
        return self.ledger.problems()

    @contextmanager
    def _started(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        command = [sys.executable, "-m", "tests.whole.faults.crash_worker", str(self.path)]
        numbers = ["--life", str(self.ledger.lives), "--seed", str(self._chance.randrange(1 << 30))]
        ledger = self.path.with_suffix(f".ledger-{self.ledger.lives}")
        with ledger.open("wb") as file:
            worker = subprocess.Popen(
                [*command, *numbers, *self._options, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
            )
        try:
            yield worker, ledger
        finally:
            worker.kill()
            worker.wait()


def _wait_open(worker: subprocess.Popen[bytes], ledger: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not ledger.stat().st_size:
        if worker.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"a worker could not start: exit {worker.poll()}")
        time.sleep(0.005)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cycles", type=int, default=30, help="kills (30)")
    parser.add_argument("--seed", type=int, default=None, help="of the random choices")
    parser.add_argument("--per-file", type=int, default=30, help="kills before a new file (30)")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    print(f"seed {seed}")
    done = acknowledged = 0
    while done < options.cycles:
        directory = Path(tempfile.mkdtemp(prefix="worker-runtime-crash-"))
        crashes = Crashes(directory / "jobs.db", seed + done)
        count = min(options.per_file, options.cycles - done)
        for _ in range(count):
            crashes.cycle()
        problems = crashes.finish()
        done += count
        acknowledged += len(crashes.ledger.acknowledged)
        print(f"{done} kills: {crashes.ledger.figures()}", flush=True)
        if problems:
            print(*problems, f"kept: {directory}", sep="\n")
            return 1
        shutil.rmtree(directory)
    print(
        f"no promise broken in {done} kills with {acknowledged} acknowledged jobs; "
        f"with 95 % confidence fewer than {300 / done:.2g} % of kills break one"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
