"""What a disk holds after a power cut, rebuilt from the system calls that strace saw.

A write is sure to be on the disk once an fsync of its file that began after it has returned. Of
the later ones any subset may be there, each of them torn at a sector.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.helpers import ROOT

SECTOR = 512

_CALL = re.compile(
    r"(?P<at>\d+\.\d+) (?P<name>\w+)\((?:\d+<(?P<path>[^>]*)>)(?:, (?P<rest>.*))?\)"
    r"\s+= -?\d+ .*?<(?P<took>\d+\.\d+)>$"
)
_DATA = re.compile(r'"(?P<data>(?:\\x[0-9a-f]{2})*)"(?P<cut>\.\.\.)?, \d+(?:, (?P<offset>\d+))?$')


@dataclass
class Call:
    """One system call on a file. Times are seconds; `data` None stands for a truncation."""

    began_at: float
    ended_at: float
    name: str
    path: str
    offset: int = 0
    data: bytes | None = None


def trace(strace: str, directory: Path, ack: str, run_s: float) -> list[Call]:
    """Let a worker live for `run_s` seconds on `jobs.db` in `directory`: its calls in their order.

    The ledger's lines are the `write` calls on `ledger`.
    """
    worker = [sys.executable, "-m", "tests.whole.faults.crash_worker", str(directory / "jobs.db")]
    short = ["--ack", ack, "--callers", "4", "--run-s", str(run_s)]
    calls = "trace=pwrite64,write,ftruncate,fdatasync,fsync"
    whole = ["-ff", "-qq", "-ttt", "-T", "-y", "-xx", "-s", "2000000", "-e", calls]
    with (directory / "ledger").open("wb") as ledger:
        subprocess.run(
            [strace, *whole, "-o", str(directory / "trace"), *worker, *short],
            cwd=ROOT,
            stdout=ledger,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=100,
        )
    parsed = [
        call
        for file in directory.glob("trace.*")
        for line in file.read_text().splitlines()
        if (call := _parse(line)) is not None
    ]
    return sorted(parsed, key=lambda call: call.began_at)


def _parse(line: str) -> Call | None:
    found = _CALL.match(line)
    if found is None:
        return None
    began_at = float(found["at"])
    path = Path(_bytes(found["path"]).decode()).name
    call = Call(began_at, began_at + float(found["took"]), found["name"], path)
    if call.name == "ftruncate":
        call.offset = int(found["rest"])
    elif call.name in ("write", "pwrite64"):
        written = _DATA.match(found["rest"])
        if written is None or written["cut"]:
            raise AssertionError(f"a write that cannot be read: {line[:200]}")
        call.data = _bytes(written["data"])
        call.offset = int(written["offset"] or 0)
    return call


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def lines_until(calls: list[Call], at: float) -> Iterator[list[str]]:
    """The ledger's lines, as words, that were written before `at`."""
    for call in calls:
        if call.path == "ledger" and call.ended_at <= at and call.data is not None:
            yield call.data.decode().split()


def restore(calls: list[Call], at: float, chance: random.Random, directory: Path) -> None:
    """Write into `directory` what the disk may hold when the power fails at `at`."""
    survival = chance.choice((0.0, 0.5, 1.0))
    for path in ("jobs.db", "jobs.db-wal"):
        own = [call for call in calls if call.path == path and call.began_at <= at]
        syncs = [c.began_at for c in own if c.name.endswith("sync") and c.ended_at <= at]
        synced_at = max(syncs, default=0.0)
        content = bytearray()
        for call in own:
            if call.name.endswith("sync"):
                continue
            if call.ended_at <= synced_at:
                _apply(content, call, None)
            elif chance.random() < survival:
                _apply(content, call, chance if survival < 1 else None)
        (directory / path).write_bytes(content)


def _apply(content: bytearray, call: Call, chance: random.Random | None) -> None:
    if call.data is None:
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    data = call.data
    if chance is not None and len(data) > SECTOR:
        data = data[: SECTOR * chance.randint(0, len(data) // SECTOR)]
    content.extend(bytes(max(0, call.offset - len(content))))
    content[call.offset : call.offset + len(data)] = data
