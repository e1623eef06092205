"""What an outside observer saw of a worker's jobs through all its lives, and what must hold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

CRASHES_MAX = 3
TRIES = {"stubborn": 2}
"""Runs that a task is given without a crash; one where it is not named."""


@dataclass
class Sighting:
    """All that was seen of one job. Lives are numbered from 0."""

    acknowledged: bool = False
    runs: list[int] = field(default_factory=list)
    is_running: bool = False
    finished: int = 0
    terminal: list[tuple[int, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Ledger:
    """Feed it the lines of each life in order; `problems()` says which promises were broken."""

    def __init__(self) -> None:
        self.jobs: defaultdict[str, Sighting] = defaultdict(Sighting)
        self.lives = 0
        self.recoveries = 0

    def read(self, lines: bytes) -> None:
        """The lines that one life has written; the last may be cut off by its end."""
        life = self.lives
        self.lives += 1
        for job in self.jobs.values():
            job.is_running = False
        for line in lines.split(b"\n")[:-1]:
            kind, *words = line.decode().split(" ")
            if kind == "R":
                self.recoveries += 1
            else:
                self._see(life, kind, words)

    def _see(self, life: int, kind: str, words: list[str]) -> None:
        job = self.jobs[words[0]]
        if kind == "A":
            job.acknowledged = True
        elif kind == "S":
            if job.is_running:
                job.faults.append(f"two runs at a time in life {life}")
            if job.terminal:
                job.faults.append(f"runs in life {life} after it was {job.terminal[-1][1]}")
            job.is_running = True
            job.runs.append(life)
        elif kind == "F":
            job.is_running = False
            job.finished += 1
        elif kind == "T":
            if job.terminal and job.terminal[-1][1] != words[1]:
                job.faults.append(f"{words[1]} in life {life}, {job.terminal[-1][1]} before")
            job.terminal.append((life, words[1]))

    @property
    def acknowledged(self) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.acknowledged]

    def problems(self) -> list[str]:
        """Call it after a last life that ran every job to its end and reported its state."""
        last = self.lives - 1
        found = []
        for job_id, job in self.jobs.items():
            faults = list(job.faults)
            if job.acknowledged and (not job.terminal or job.terminal[-1][0] != last):
                faults.append("acknowledged and lost")
            faults += _too_many_runs(job_id.rpartition("-")[2], job)
            found += [f"{job_id}: {fault}" for fault in faults]
        return found

    def figures(self) -> str:
        runs = sum(len(job.runs) for job in self.jobs.values())
        again = sum(len(set(job.runs)) > 1 for job in self.jobs.values())
        return (
            f"{self.lives} lives, {self.recoveries} recoveries, {len(self.acknowledged)} jobs "
            f"acknowledged, {runs} runs, {again} jobs run again after a crash"
        )


def _too_many_runs(kind: str, job: Sighting) -> list[str]:
    tries = TRIES.get(kind, 1)
    faults = []
    for life in set(job.runs):
        if job.runs.count(life) > tries:
            faults.append(f"{job.runs.count(life)} runs in life {life}, {tries} tries")
    lives = len(set(job.runs))
    if kind == "once" and lives > 1:
        faults.append("runs again after a crash although it asked not to")
    # A kill between two tries is no crash of the job, so each try may add a life of its own.
    if lives > CRASHES_MAX + tries - 1:
        faults.append(f"runs in {lives} lives with {tries} tries, {CRASHES_MAX} crashes fail a job")
    if len(job.runs) > tries + lives - 1:
        faults.append(f"{len(job.runs)} runs with {tries} tries and at most {lives - 1} crashes")
    return faults
