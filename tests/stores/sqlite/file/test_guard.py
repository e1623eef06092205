"""A file is one store's own under whatever name, its lock is missed, and its names are kept."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import ROOT, eventually
from tests.support.sqlite_stores import Jobs, ids, kept, make_store, recovered, rows
from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.sqlite.file import guard
from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a lock that Linux alone has")

OPEN_IT = """
import asyncio, sys
from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings

async def main():
    store = SqliteStore(SqliteStoreSettings(path=sys.argv[1]))
    await store.open()
    await store.close()

asyncio.run(main())
"""


def open_elsewhere(path: Path | str) -> str:
    """Open and close the store in a process of its own; what that was refused with, or nothing."""
    command = [sys.executable, "-c", OPEN_IT, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    return "" if done.returncode == 0 else done.stderr.splitlines()[-1]


def store_at(path: Path | str, **options: Any) -> SqliteStore:
    return SqliteStore(SqliteStoreSettings(path=str(path)), **options)


@pytest.fixture
def bind() -> Iterator[Callable[[Path, Path], None]]:
    """Mounts a file or folder in another place."""
    places: list[Path] = []

    def mount(what: Path, where: Path) -> None:
        if what.is_dir():
            where.mkdir()
        else:
            where.touch()
        tool = shutil.which("mount")
        if tool is None or subprocess.run([tool, "--bind", what, where], check=False).returncode:
            pytest.skip("nothing can be mounted here")
        places.append(where)

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", place], check=True)


# Other names (B3)


def hard_link(directory: Path, bind: Callable[[Path, Path], None]) -> Path:
    os.link(directory / "jobs.db", directory / "b.db")
    return directory / "b.db"


def hard_link_elsewhere(directory: Path, bind: Callable[[Path, Path], None]) -> Path:
    (directory / "other").mkdir()
    os.link(directory / "jobs.db", directory / "other" / "jobs.db")
    return directory / "other" / "jobs.db"


def symbolic_link(directory: Path, bind: Callable[[Path, Path], None]) -> Path:
    (directory / "b.db").symlink_to("jobs.db")
    return directory / "b.db"


def roundabout(directory: Path, bind: Callable[[Path, Path], None]) -> Path:
    (directory / "x").mkdir()
    return directory / "x" / ".." / "." / "jobs.db"


def mounted_file(directory: Path, bind: Callable[[Path, Path], None]) -> Path:
    """What a file system that does not tell letters of one case from the other shows, too."""
    bind(directory / "jobs.db", directory / "JOBS.DB")
    return directory / "JOBS.DB"


def mounted_directory(directory: Path, bind: Callable[[Path, Path], None]) -> Path:
    place = directory.with_name(directory.name + "-mounted")
    bind(directory, place)
    return place / "jobs.db"


WAYS = [
    hard_link,
    hard_link_elsewhere,
    symbolic_link,
    roundabout,
    mounted_file,
    mounted_directory,
]


@linux_only
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_file_that_is_open_is_refused_under_every_other_name(
    tmp_path: Path, bind: Callable[[Path, Path], None], way: Any, is_new: bool
) -> None:
    if not is_new:
        await (old := make_store(tmp_path)).open()
        await old.close()
    store = make_store(tmp_path)
    await store.open()
    other = way(tmp_path, bind)
    for _ in range(2):  # the first one has let go of the lock
        with pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"):
            await store_at(other).open()
    refused = open_elsewhere(other)
    assert f"is in use by process {os.getpid()}" in refused
    assert "one process at a time" in refused
    await kept(store, Jobs().make())
    assert rows(store, "id") == [("job-1",)]
    await store.close()


@linux_only
async def test_of_two_names_that_were_there_before_the_second_is_refused(tmp_path: Path) -> None:
    await (old := make_store(tmp_path)).open()
    await old.close()
    other = hard_link(tmp_path, lambda *_: None)
    for first, second in ((tmp_path / "jobs.db", other), (other, tmp_path / "jobs.db")):
        store = store_at(first)
        await store.open()
        assert "is in use by process" in open_elsewhere(second)
        await store.close()
        assert open_elsewhere(second) == ""


async def test_a_file_whose_log_lies_beside_another_name_is_refused(tmp_path: Path) -> None:
    """What was accepted last is in there, and the file would be damaged without it."""
    crash = OPEN_IT.replace("    await store.close()", "    import os; os._exit(9)")
    command = [sys.executable, "-c", crash, str(tmp_path / "jobs.db")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    assert (tmp_path / "jobs.db-wal").exists()
    other = hard_link(tmp_path, lambda *_: None)
    with pytest.raises(ConfigurationError, match=r"jobs\.db-wal; start the worker under that name"):
        await store_at(other).open()
    await (store := make_store(tmp_path)).open()
    await store.close()
    await (store := store_at(other)).open()
    await store.close()


async def test_a_file_with_names_that_are_not_in_sight_is_refused(tmp_path: Path) -> None:
    await (store := make_store(tmp_path)).open()
    await store.close()
    other = hard_link_elsewhere(tmp_path, lambda *_: None)
    for path in (tmp_path / "jobs.db", other):
        with pytest.raises(ConfigurationError, match=r"has 2 names .* Remove the other names"):
            await store_at(path).open()
    other.unlink()
    await (store := make_store(tmp_path)).open()
    await store.close()


@linux_only
@pytest.mark.parametrize("what", ["refused", "closed", "busy"])
async def test_locks_that_the_application_has_on_the_file_are_kept(
    tmp_path: Path, what: str
) -> None:
    """The kernel drops them when any descriptor of the file is closed in this process."""
    path = tmp_path / "jobs.db"
    await (old := make_store(tmp_path)).open()
    await old.close()
    if what == "busy":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    application = sqlite3.connect(path, isolation_level=None)
    application.execute("BEGIN IMMEDIATE" if what == "busy" else "SELECT * FROM worker_jobs")
    before = _locks_of(path)
    assert before
    store = make_store(tmp_path)
    if what == "refused":
        await store.open()
        with pytest.raises(ConfigurationError):
            await store_at(hard_link(tmp_path, lambda *_: None)).open()
    elif what == "closed":
        for _ in range(3):
            await (store := make_store(tmp_path)).open()
            await store.close()
    else:

        def impatient(path: str) -> sqlite3.Connection:
            return sqlite3.connect(path, timeout=0.01, check_same_thread=False)

        with pytest.raises(ConfigurationError, match="locked by another program"):
            await store_at(path, connect=impatient).open()
    assert before <= _locks_of(path)
    if what == "refused":
        await store.close()
    application.close()
    await (store := make_store(tmp_path)).open()
    await store.close()


def _locks_of(path: Path) -> set[tuple[str, ...]]:
    """What the kernel says of this process's POSIX locks on the file."""
    inode, pid = str(path.stat().st_ino), str(os.getpid())
    lines = [line.split()[1:] for line in Path("/proc/locks").read_text().splitlines()]
    return {
        tuple(words)
        for words in lines
        if words[0] == "POSIX" and words[3] == pid and words[4].endswith(f":{inode}")
    }


@linux_only
async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    for _ in range(3):
        await (store := make_store(tmp_path)).open()
        with pytest.raises(ConfigurationError):
            await make_store(tmp_path).open()
        with pytest.raises(ConfigurationError):
            await store_at(tmp_path).open()
        await store.close()
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if link.is_symlink()]
    assert not [path for path in opened if path.startswith(str(tmp_path))]


# The lock beside the file (B4)


def remove(lock: Path) -> None:
    lock.unlink()


def rename(lock: Path) -> None:
    lock.rename(lock.with_name("away"))


def replace(lock: Path) -> None:
    lock.with_name("new").write_text("")
    lock.with_name("new").replace(lock)


def _flock_of(path: Path) -> int | None:
    """The process that the kernel says has the lock."""
    if not path.is_file():
        return None
    lines = [line.split()[1:] for line in Path("/proc/locks").read_text().splitlines()]
    ours = (w for w in lines if w[0] == "FLOCK" and w[4].endswith(f":{path.stat().st_ino}"))
    return next((int(words[3]) for words in ours), None)


@linux_only
@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "busy"])
@pytest.mark.parametrize("taken_away", [remove, rename, replace], ids=lambda how: how.__name__)
async def test_a_lock_that_is_taken_away_lets_nobody_in_and_is_missed(
    tmp_path: Path,
    taken_away: Callable[[Path], None],
    is_idle: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs, lock = Jobs(), tmp_path / "jobs.db.lock"
    words = "jobs.db.lock was deleted or replaced while its worker runs"

    def missed(count: int) -> bool:
        return caplog.text.count(words) >= count

    store = make_store(tmp_path)
    await store.open()
    await kept(store, jobs.make())
    for count in (1, 2):
        taken_away(lock)
        refused = open_elsewhere(tmp_path / "jobs.db")
        assert f"is in use by process {os.getpid()}" in refused
        with pytest.raises(ConfigurationError, match="in use by process"):
            await make_store(tmp_path).open()
        if not is_idle:
            await kept(store, jobs.make())
        await eventually(partial(missed, count))
        assert caplog.text.count(words) == count
        await eventually(lambda: _flock_of(lock) == os.getpid())
    assert "in use by process" in open_elsewhere(tmp_path / "jobs.db")
    await store.close()
    assert open_elsewhere(tmp_path / "jobs.db") == ""
    await (store := make_store(tmp_path)).open()
    assert ids(await recovered(store))[:1] == ["job-1"]
    await store.close()


async def test_where_nothing_else_keeps_others_out_a_lost_lock_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_CAN_LOCK_FILE", False)
    deaths: list[str] = []
    store = make_store(tmp_path, on_fatal=deaths.append)
    await store.open()
    await kept(store, Jobs().make())
    (tmp_path / "jobs.db.lock").unlink()
    await eventually(lambda: deaths)
    assert "jobs.db.lock was deleted or replaced, and another process may have" in deaths[0]
    await store.close()


async def test_a_lock_that_cannot_be_made_again_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = tmp_path / "jobs.db.lock"
    store = make_store(tmp_path)
    await store.open()
    lock.unlink()
    lock.mkdir()
    await eventually(lambda: "jobs.db.lock was deleted or replaced" in caplog.text)
    await kept(store, Jobs().make())
    lock.rmdir()
    await eventually(lambda: lock.is_file() and lock.read_text() == f"{os.getpid()}\n")
    assert caplog.text.count("jobs.db.lock was deleted or replaced") == 1
    await store.close()


# What a new file is (B32a, B32b)


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
async def test_a_new_file_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    """B32a"""
    before = os.umask(umask)
    try:
        store = make_store(tmp_path)
        await store.open()
        await kept(store, Jobs().make())
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"jobs.db", "jobs.db-wal", "jobs.db.lock"} <= found.keys()
    assert set(found.values()) == {0o600}
    await store.close()


async def test_a_file_that_is_there_stays_as_open_as_somebody_has_made_it(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch(0o640)
    (tmp_path / "jobs.db").chmod(0o640)
    store = make_store(tmp_path)
    await store.open()
    await kept(store, Jobs().make())
    for name in ("jobs.db", "jobs.db-wal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    await store.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "old"])
async def test_a_directory_that_cannot_be_synced_is_no_place_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_new: bool
) -> None:
    """B32b: SQLite says nothing of it."""
    if not is_new:
        await (store := make_store(tmp_path)).open()
        await store.close()
    monkeypatch.setattr(os, "fsync", _failing(code))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"cannot be synced .* after a power cut"):
            await make_store(tmp_path).open()
    monkeypatch.undo()
    await (store := make_store(tmp_path)).open()
    await store.close()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
async def test_a_file_system_that_syncs_no_directories_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(code))
    await (store := make_store(tmp_path)).open()
    await store.close()


def _failing(code: int) -> Callable[[int], None]:
    def fsync(fd: int) -> None:
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
async def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "jobs.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    store = store_at(path)
    store_lock = Path(store.path + ".lock")
    try:
        with pytest.raises(ConfigurationError, match="it is not a file"):
            await store.open()
    finally:
        store_lock.unlink(missing_ok=True)
