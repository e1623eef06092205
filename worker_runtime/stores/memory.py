"""The memory store: jobs are kept in the process's own table of jobs, and as long as it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.figures import StoreStatistics
from worker_runtime.model.filter import JobFilter
from worker_runtime.model.job import Job
from worker_runtime.stores.boundary import LOOKS_ONLY, Feature, Here, Host, Session
from worker_runtime.stores.local import LocalStore


class MemoryStore(LocalStore):
    """Has nothing that the table of jobs does not have, but notes."""

    kind = "memory"
    lacks: Mapping[Feature, str] = {
        "transaction": "transaction() needs a store in a file: store='sqlite:///...'",
    }
    outlives_process = False
    must_encode_results = False
    recorder = None
    last_order = 0

    def __init__(self) -> None:
        super().__init__()
        self._notes: dict[str, tuple[str, float | None]] = {}

    async def open(self, host: Host = LOOKS_ONLY) -> None:
        """There is no file and no server: only the host to get to know."""
        self._clock = host.clock

    async def recover(self) -> AsyncIterator[Sequence[Job]]:
        """An earlier life left nothing."""
        return
        yield ()

    async def close(self) -> None:
        """There is nothing to write."""

    def record_accepted(self, jobs: Sequence[Job]) -> None:
        """The table has them: they may be acknowledged now."""

    async def acknowledged(self, job: Job) -> None:
        """A job in the table is accepted."""

    async def find(self, job_id: str) -> Job | None:
        """Every kept job is in the table."""
        return None

    async def page(
        self, wanted: JobFilter, here: Here, *, limit: int, below: int | None
    ) -> tuple[list[Job], int | None]:
        jobs = here.listed(wanted.matches, limit=limit + 1, below=below)
        return jobs[:limit], jobs[limit - 1].order if len(jobs) > limit else None

    async def ended(self, task: str, *, limit: int, below: int | None) -> list[Job]:
        """Every kept job is in the table."""
        return []

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Who forgets them in the table has deleted them."""

    def transaction(self, timeout_s: float) -> AbstractAsyncContextManager[Session]:
        raise ConfigurationError(self.lacks["transaction"])

    async def load_note(self, key: str) -> str | None:
        text, until = self._notes.get(key, (None, None))
        return None if until is not None and until < self._clock.wall() else text

    async def save_note(self, key: str, text: str, *, until: float | None = None) -> None:
        self._notes[key] = (text, until)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(kind=self.kind)
