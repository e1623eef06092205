"""A file that cannot be used is refused at start, with what is wrong and the way out."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.helpers import ROOT
from tests.support.sqlite_stores import Jobs, kept, make_store, recovered
from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.sqlite.file.schema import MIGRATIONS, open_writer
from worker_runtime.stores.sqlite.store import parse_url


def test_a_url_names_a_path_and_an_ack_mode() -> None:
    assert parse_url("sqlite:///jobs.db") == ("jobs.db", "durable")
    assert parse_url("sqlite:////var/my%20jobs.db?ack=os") == ("/var/my jobs.db", "os")
    assert parse_url("sqlite:///a/b.db?ack=memory") == ("a/b.db", "memory")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite://jobs.db", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///jobs%00.db", "must name a file"),
        ("sqlite:///jobs.db?ack=never", "ack must be one of durable, os, memory, not 'never'"),
        ("sqlite:///jobs.db?mode=ro", "unknown option 'mode'; allowed: ack"),
    ],
)
def test_a_wrong_url_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_url(url)


async def test_damage_that_only_the_recovery_meets_is_refused_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    await kept(store, *(jobs.make("mail", "x" * 1000) for _ in range(200)))
    await store.close()
    path = tmp_path / "jobs.db"
    whole = path.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    path.write_bytes(whole[:middle] + b"\xff" * 4096 * 4 + whole[middle + 4096 * 4 :])
    monkeypatch.setattr(
        "worker_runtime.stores.sqlite.file.schema._CHECKED_BYTES_MAX", 0
    )  # as a large file
    store = make_store(tmp_path)
    with pytest.raises(ConfigurationError, match=r"damaged or not an SQLite file .* backup"):
        await store.open()
        await recovered(store)
    await store.close()


async def test_a_second_process_is_refused_and_told_who_holds_the_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    code = (
        "import asyncio, sys\n"
        "from worker_runtime.stores.sqlite.store import SqliteStore, SqliteStoreSettings\n"
        "asyncio.run(SqliteStore(SqliteStoreSettings(path=sys.argv[1])).open())\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", code, store.path], capture_output=True, text=True, cwd=ROOT
    )
    assert second.returncode == 1
    assert f"jobs.db is in use by process {os.getpid()}; one process at a time" in second.stderr
    await store.close()


async def test_another_name_for_the_same_file_is_the_same_lock(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    (tmp_path / "alias").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="in use by process"):
        await make_store(tmp_path / "alias").open()
    await store.close()
    await (again := make_store(tmp_path / "alias")).open()
    await again.close()


async def test_the_lock_is_free_again_after_a_failed_open(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"text, and quite a lot of it" * 100)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="damaged or not an SQLite file"):
            await make_store(tmp_path).open()


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(os.urandom(64))


async def test_a_damaged_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    jobs = Jobs()
    await kept(store, *(jobs.make() for _ in range(500)))
    await store.close()
    damage(Path(store.path))
    with pytest.raises(ConfigurationError, match=r"move it away .* to start empty.*\.recover"):
        await make_store(tmp_path).open()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE worker_schema SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match="schema version 99, this release knows up to"):
        await make_store(tmp_path).open()


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the directory must exist and be writable"):
        await make_store(tmp_path / "absent").open()


@pytest.mark.parametrize("directory_mode", [0o555, 0o777])
def test_a_file_that_may_not_be_written_is_refused(directory_mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / "jobs.db"
        open_writer(str(path), is_durable=True).close()
        path.chmod(0o444)
        directory.chmod(directory_mode)
        code = (
            "import os, sys\n"
            "from worker_runtime.stores.sqlite.file.schema import open_writer\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"  # root may write everything
            "open_writer(sys.argv[1], is_durable=True)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT
        )
        directory.chmod(0o700)
        assert run.returncode == 1
        assert "the file and its directory must be writable by this process" in run.stderr


async def test_a_write_lock_of_another_program_is_named(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    store = make_store(
        tmp_path,
        connect=lambda path: sqlite3.connect(
            path, timeout=0.01, isolation_level=None, check_same_thread=False
        ),
    )
    with pytest.raises(ConfigurationError, match="locked by another program"):
        await store.open()
    other.close()


async def test_a_file_of_the_application_keeps_its_own_tables_and_version(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE users (name); PRAGMA user_version = 42;")
    connection.close()
    store = make_store(tmp_path)
    await store.open()
    await kept(store, Jobs().make())
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (42,)
    assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    connection.close()


async def test_an_older_file_is_brought_up_to_date_or_left_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await kept(store, Jobs().make("add", 5))
    await store.close()

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE worker_jobs ADD COLUMN colour TEXT")
        connection.execute("no such statement")

    with pytest.raises(ConfigurationError, match="cannot be used"):
        open_writer(store.path, is_durable=True, migrations=(*MIGRATIONS, broken))

    def grow(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE worker_jobs ADD COLUMN colour TEXT")

    newer = len(MIGRATIONS) + 1
    for _ in range(2):
        upgraded = open_writer(store.path, is_durable=True, migrations=(*MIGRATIONS, grow))
        assert upgraded.execute("SELECT colour FROM worker_jobs").fetchall() == [(None,)]
        assert upgraded.execute("SELECT version FROM worker_schema").fetchall() == [(newer,)]
        upgraded.close()

    with pytest.raises(ConfigurationError, match=f"schema version {newer}"):
        await make_store(tmp_path).open()


async def test_a_job_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await kept(store, Jobs().make(job_id="broken-one"))
    await store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE worker_jobs SET payload = x'c1'")
    connection.commit()
    connection.close()
    store = make_store(tmp_path)
    await store.open()
    with pytest.raises(ConfigurationError, match=r"job 'broken-one' in .* cannot be read"):
        await recovered(store)
    await store.close()
