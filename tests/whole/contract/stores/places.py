"""The stores that the suite knows, what each lacks, and where a test keeps its jobs.

A store of your own passes the suite with a row in `STORES`, and one in `LACKS` for each thing
that it cannot do. Nothing else here, and no test, names a store.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.dict_store import DictStore
from tests.support.redis_server import RedisServer
from worker_runtime import Runtime, Settings
from worker_runtime.stores.boundary import Feature, Store
from worker_runtime.stores.memory import MemoryStore
from worker_runtime.stores.redis.store import RedisStore
from worker_runtime.stores.sqlite.store import SqliteStore

NEEDS_A_FILE = "transaction() needs a store in a file: store='sqlite:///...'"

LACKS: dict[tuple[str, Feature], str] = {
    ("memory", "transaction"): NEEDS_A_FILE,
    ("dict", "transaction"): "a dict has no transactions",
    ("redis", "unique_key"): (
        "unique_key does not work with a Redis store; give the job a job_id of its own"
    ),
    ("redis", "key"): (
        "key does not work with a Redis store, where jobs wait in one line for all workers; "
        "leave it out"
    ),
    ("redis", "after"): ("after does not work with a Redis store; enqueue from the job before it"),
    ("redis", "workflows"): "chains and groups do not work with a Redis store",
    ("redis", "delete"): "a Redis store forgets ended jobs by itself, and only so",
    ("redis", "limits"): (
        "limits of queues, tasks and keys do not work with a Redis store, where other workers "
        "start jobs too; leave limit and per_key out"
    ),
    ("redis", "aging"): (
        "aging_s cannot work with a Redis store, where each priority is a line of its own; "
        "leave it out"
    ),
    ("redis", "only_for"): (
        "only_for names classes, which do not travel to another process; "
        "give it to @task(retry=...)"
    ),
    ("redis", "transaction"): NEEDS_A_FILE,
}
"""What a store cannot do, and the words in which it refuses, through every door."""


class Place(ABC):
    """Where the jobs of one test are, whoever works on them."""

    kind: Kind

    @property
    @abstractmethod
    def store(self) -> str | Store:
        """What a Runtime takes as its `store`."""

    def runtime(self, tasks: Any, **options: Any) -> Runtime:
        options.setdefault("settings", Settings(stop_within_s=0))
        return Runtime(tasks, store=self.store, **options)

    def after_kill(self) -> Place:
        """Another place, as this one would be left by a kill of whoever works on it now, and
        nobody else's any more."""
        raise AssertionError(f"{self.kind.name} does not outlive its process")

    def let_pass(self, seconds: float) -> None:
        """What counts time by itself, and not by the clock of whoever works on it, is so much
        later. Nothing does in this process."""
        return


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    store    the class, whose `kind` is the row in `LACKS`
    place    makes the place of one test
    shared   more than one runtime may work on it at a time
    hasty    for one that is shared: a store at what a place has as `store`, which takes a worker
             for lost within a second or two
    """

    name: str
    store: type[Any]
    place: Callable[[pytest.FixtureRequest, Path], Place]
    shared: bool = False
    hasty: Callable[[Any], Store] | None = None

    @property
    def outlives(self) -> bool:
        """Accepted jobs are kept when the process ends."""
        return bool(self.store.outlives_process)

    def lacks(self, feature: str) -> str | None:
        """The words in which it refuses; None where it can."""
        return next(
            (text for key, text in LACKS.items() if key == (self.store.kind, feature)), None
        )


class InMemory(Place):
    store = "memory://"


class InFile(Place):
    def __init__(self, directory: Path, query: str) -> None:
        self._directory = directory
        self._query = query

    @property
    def store(self) -> str:
        return f"sqlite:///{self._directory}/jobs.db{self._query}"

    def after_kill(self) -> InFile:
        """What is in the file's log counts, though it was not copied into the file."""
        copy = self._directory / "after-kill"
        copy.mkdir()
        for name in ("jobs.db", "jobs.db-wal"):
            shutil.copy(self._directory / name, copy)
        return InFile(copy, self._query)


class InRedis(Place):
    def __init__(self, server: RedisServer, database: int = 0) -> None:
        self._server = server
        self._database = database

    @property
    def store(self) -> str:
        return f"{self._server.url.rpartition('/')[0]}/{self._database}"

    def after_kill(self) -> InRedis:
        """Leases have run out by the time somebody looks."""
        other = InRedis(self._server, self._database + 1)
        with redis.Redis.from_url(self.store) as here, redis.Redis.from_url(other.store) as there:
            for key in here.scan_iter():
                if not key.startswith(b"arq:in-progress:"):
                    there.restore(key, max(0, here.pttl(key)), here.dump(key))
        return other

    def let_pass(self, seconds: float) -> None:
        with redis.Redis.from_url(self.store) as client:
            for key in client.scan_iter():
                left_ms = client.pttl(key)
                if left_ms > 0:  # else it is kept for ever
                    client.pexpire(key, max(1, left_ms - round(seconds * 1000)))


class InDict(Place):
    def __init__(self, store: DictStore) -> None:
        self._store = store

    @property
    def store(self) -> DictStore:
        return self._store

    def runtime(self, tasks: Any, **options: Any) -> Runtime:
        if options.get("settings") is not None:  # as assembly does it for a store that it makes
            self._store.kept_count_max = options["settings"].history_count_max
        return super().runtime(tasks, **options)

    def after_kill(self) -> InDict:
        return InDict(self._store.as_after_a_kill())


def in_file(query: str = "") -> Callable[[pytest.FixtureRequest, Path], Place]:
    return lambda _, directory: InFile(directory, query)


def in_redis(request: pytest.FixtureRequest, _: Path) -> Place:
    return InRedis(request.getfixturevalue("server"))  # skips where there is no server to start


STORES = {
    kind.name: kind
    for kind in (
        Kind("memory", MemoryStore, lambda *_: InMemory()),
        Kind("sqlite", SqliteStore, in_file()),
        Kind("sqlite_os", SqliteStore, in_file("?ack=os")),
        Kind("sqlite_memory", SqliteStore, in_file("?ack=memory")),
        Kind(
            "redis",
            RedisStore,
            in_redis,
            shared=True,
            hasty=lambda url: RedisStore.from_url(url, lease_s=1.0),
        ),
        Kind("dict", DictStore, lambda *_: InDict(DictStore())),
    )
}
