"""The tables in the SQLite file: made, brought up to date, and refused where they cannot be used.

The version stands in a table of our own, not in `PRAGMA user_version`: the file may be the
application's, and that number its own.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence

from worker_runtime.errors import ConfigurationError

Connect = Callable[[str], sqlite3.Connection]
Migration = Callable[[sqlite3.Connection], None]

SQLITE_VERSION_MIN = (3, 35, 0)  # UPDATE ... FROM, RETURNING

OUR_TABLES = frozenset({"worker_jobs", "worker_notes", "worker_schema"})

# Above this size a check of the whole file would delay the start by seconds.
_CHECKED_BYTES_MAX = 64 << 20

# `place` is `Job.order`. `payload` is MessagePack of [args, kwargs], `result` of the value;
# `options`, `failure` and `activity` of the structs in `rows.py`. `keep_until` is set on an
# ended job that has a time to live of its own.
_VERSION_1 = (
    """CREATE TABLE worker_jobs (
        place INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        task TEXT NOT NULL,
        queue TEXT NOT NULL,
        priority INTEGER NOT NULL,
        created_at REAL NOT NULL,
        payload BLOB NOT NULL,
        options BLOB,
        must_encode INTEGER NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        due_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        keep_until REAL,
        result BLOB,
        failure BLOB,
        activity BLOB
    )""",
    """CREATE INDEX worker_jobs_done ON worker_jobs (queue, ended_at)
        WHERE state IN ('completed', 'cancelled')""",
    """CREATE INDEX worker_jobs_failed ON worker_jobs (queue, ended_at)
        WHERE state = 'failed'""",
    "CREATE INDEX worker_jobs_keep ON worker_jobs (keep_until) WHERE keep_until IS NOT NULL",
)


def _create(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1:
        connection.execute(statement)


def _add_notes(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE worker_notes (key TEXT PRIMARY KEY, text TEXT NOT NULL, keep_until REAL)"
    )
    connection.execute(
        "CREATE INDEX worker_notes_keep ON worker_notes (keep_until) WHERE keep_until IS NOT NULL"
    )


MIGRATIONS: tuple[Migration, ...] = (_create, _add_notes)
"""The n-th brings a file of version n to version n + 1. Append only."""


def connect_default(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=64
    )


def open_writer(
    path: str,
    *,
    is_durable: bool,
    connect: Connect = connect_default,
    migrations: Sequence[Migration] = MIGRATIONS,
) -> sqlite3.Connection:
    """The one writing connection, its tables up to date. Raises ConfigurationError, which says
    what is wrong with the file and the way out."""
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise ConfigurationError(
            f"store: SQLite {needed} or newer is needed, this Python has {sqlite3.sqlite_version}"
        )
    connection = None
    try:
        connection = connect(path)
        _configure(connection, path, is_durable)
        _check(connection, path)
        _migrate(connection, path, migrations)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise refusal(path, error) from error
    except ConfigurationError:
        if connection is not None:
            connection.close()
        raise
    return connection


def open_reader(path: str, connect: Connect = connect_default) -> sqlite3.Connection:
    """A connection that only reads, beside the writer."""
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def refusal(path: str, error: sqlite3.Error) -> ConfigurationError:
    """`error`, met while opening or first reading the file, as what the operator can do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ConfigurationError(
            f"store: {path} is damaged or not an SQLite file ({error}); restore a backup, or move "
            f"it away (with {path}-wal) to start empty; `sqlite3 {path} .recover` may save its jobs"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return ConfigurationError(
            f"store: {path} cannot be written ({error}); the file and its directory must be "
            "writable by this process, because SQLite keeps its log beside the file"
        )
    if code == sqlite3.SQLITE_FULL:
        return ConfigurationError(f"store: no space is left to open {path}; free some and restart")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConfigurationError(
            f"store: {path} is locked by another program that writes to it; end that program"
        )
    return ConfigurationError(f"store: {path} cannot be used: {error}")


def _configure(connection: sqlite3.Connection, path: str, is_durable: bool) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise ConfigurationError(
            f"store: {path} cannot use a write-ahead log (journal mode {mode!r}): "
            "it needs a local file system"
        )
    connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync stops at the drive's cache
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    # SQLite's own checkpoint drops the error of a failed fsync, so the journal runs it.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    connection.execute("PRAGMA temp_store = MEMORY")


def _check(connection: sqlite3.Connection, path: str) -> None:
    # SQLite opens a file that may only be read, and does not say so before the first change.
    if not os.access(path, os.W_OK):
        read_only = sqlite3.OperationalError("it may only be read")
        read_only.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise read_only
    if os.path.getsize(path) > _CHECKED_BYTES_MAX:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[Migration]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version > len(migrations):
            raise ConfigurationError(
                f"store: {path} has schema version {version}, this release knows up to "
                f"{len(migrations)}; run the newer release, or use another file"
            )
        for migration in migrations[version:]:
            migration(connection)
        if version < len(migrations):
            connection.execute("DELETE FROM worker_schema")
            connection.execute("INSERT INTO worker_schema VALUES (?)", (len(migrations),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    connection.execute("CREATE TABLE IF NOT EXISTS worker_schema (version INTEGER NOT NULL)")
    row = connection.execute("SELECT max(version) FROM worker_schema").fetchone()
    return int(row[0] or 0)
