"""Keeps the file one store's own: under its name, under every other name, and in its place.

Two locks, because each sees what the other does not. The lock beside the file is there before the
file is opened and says who holds it. The lock on the file itself is one and the same whatever the
file is called: by a hard link, through a bind mount, in other letters; and it is still there when
somebody has taken the first one away.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import stat
import sys
from typing import ClassVar

from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.sqlite.file.schema import refusal

logger = logging.getLogger("worker_runtime.stores")

# What a file consists of is its owner's business alone.
_MODE = 0o600
# Where the kernel keeps these locks apart from those that SQLite takes. Elsewhere (macOS, BSD) one
# would lock SQLite out.
_CAN_LOCK_FILE = sys.platform == "linux"
_UNSEEN = ", under another name or without its lock beside the file"
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EACCES)

Identity = tuple[int, int]


class FileGuard:
    """Guarantees, from `acquire` to `release`, that no other store of whatever process has the
    file; or tells, by `find_loss`, that this can no longer be said.

    Assumes that connections to the file are opened after `acquire` and closed before `release`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._name = _NameLock(path)
        self._file = _FileLock(path)
        self._watched: list[tuple[str, Identity]] = []

    def acquire(self) -> None:
        """Raises ConfigurationError where another store has the file, or where it cannot be made,
        opened or locked."""
        self._name.acquire()
        try:
            self._file.acquire()
        except BaseException:
            self._name.release()
            raise

    def release(self) -> None:
        self._file.release()
        self._name.release()

    def remember(self) -> None:
        """Call it once the file is open for writing and has a log: from now on both are to stay.
        Raises ConfigurationError where the directory cannot be made to keep their names."""
        log = self._path + "-wal"
        found = [(self._path, self._file.identity), (log, _identity(log))]
        self._watched = [(path, known) for path, known in found if known is not None]
        _sync_directory(self._path)

    def find_loss(self) -> str | None:
        """What has happened to the file or its log; None where both are in place.

        A file that was deleted, or has another one in its place, takes commits as if nothing were:
        they are gone with the process.
        """
        for path, known in self._watched:
            if _identity(path) != known:
                return f"{path} was deleted or replaced while it was open"
        return None

    def find_intruder(self) -> str | None:
        """Why another process may have the file, too; None where none has. To be asked now and
        then: the lock beside the file is made again where it was taken away, as long as the
        file's own keeps everybody else out."""
        if self._name.is_in_place() or self._name.restore(self._file):
            return None
        return f"{self._name.path} was deleted or replaced, and another process may have the file"


class _NameLock:
    """Holds a side file that names its holder's pid. The file stays when the lock is released:
    removing it could take the lock from somebody who has just opened it. The kernel releases the
    lock when its holder dies."""

    def __init__(self, path: str) -> None:
        self.path = path + ".lock"
        self._of = path
        self._fd: int | None = None
        self._identity: Identity | None = None
        self._is_missed = False

    def acquire(self) -> None:
        """Raises ConfigurationError when another open store holds the lock or it cannot be made."""
        try:
            fd = self._take()
        except BlockingIOError:
            raise _in_use(self._of, self._holder()) from None
        except OSError as error:
            raise ConfigurationError(
                f"store: the lock {self.path} cannot be taken ({error.strerror}); "
                "the directory must exist and be writable by this process"
            ) from None
        self._hold(fd)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = self._identity = None

    def is_in_place(self) -> bool:
        return self._identity is None or _identity(self.path) == self._identity

    def restore(self, file: _FileLock) -> bool:
        """Make the side file again. False where nothing else keeps others away meanwhile."""
        if not file.is_locked:
            return False
        if not self._is_missed:
            logger.error(
                "%s was deleted or replaced while its worker runs; the file itself is locked too, "
                "so that no other worker can open it, and the lock is made again",
                self.path,
            )
        self._is_missed = True
        try:
            fd = self._take()
        except OSError:  # somebody who is about to be refused has it; or the disk is full
            return True
        assert self._fd is not None
        os.close(self._fd)
        self._hold(fd)
        return True

    def _take(self) -> int:
        """Raises OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _hold(self, fd: int) -> None:
        self._fd, self._identity, self._is_missed = fd, _identity_of(fd), False

    def _holder(self) -> str:
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                return f"process {file.read(32).strip() or 'unknown'}"
        except OSError:
            return "another process"


class _FileLock:
    """Holds the file itself, which it makes where there is none.

    Danger: as soon as a process closes any descriptor of a file, the kernel drops all locks that
    SQLite has on it in that process. So a file that this process has open is not opened again,
    and a descriptor is not closed while another one of the same file is open, whoever's it is.
    """

    _open_here: ClassVar[set[Identity]] = set()
    _never_closed: ClassVar[dict[Identity, int]] = {}

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        self.identity: Identity | None = None

    @property
    def is_locked(self) -> bool:
        return self._fd is not None

    def acquire(self) -> None:
        """Raises ConfigurationError."""
        found = _status(self._path)
        if found is None:
            self._make()
            found = _status(self._path)
        if found is None or not stat.S_ISREG(found.st_mode):
            raise _unusable(self._path, "it is not a file")
        self.identity = identity = (found.st_dev, found.st_ino)
        if identity in self._open_here:
            self.identity = None
            raise _in_use(self._path, f"process {os.getpid()}{_UNSEEN}")
        try:
            if _CAN_LOCK_FILE:
                self._lock(identity)
            if found.st_nlink > 1:
                _check_other_names(self._path, found)
        except BaseException:
            self.release()
            raise
        self._open_here.add(identity)

    def release(self) -> None:
        fd, identity = self._fd, self.identity
        self._fd = self.identity = None
        if identity is not None:
            self._open_here.discard(identity)
        if fd is None or identity is None:
            return
        if _is_open_besides(fd, identity):
            fcntl.flock(fd, fcntl.LOCK_UN)
            self._never_closed[identity] = fd
        else:
            os.close(fd)

    def _make(self) -> None:
        """For its owner alone. Closing it is no danger: nobody has it open yet."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self._path, flags, _MODE))
        except FileExistsError:
            pass
        except OSError as error:
            raise _unusable(self._path, error.strerror) from None

    def _lock(self, identity: Identity) -> None:
        fd = self._never_closed.pop(identity, None)
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC) if fd is None else fd
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(self._path, f"{_flock_holder(identity)}{_UNSEEN}") from None
        except OSError as error:
            raise _unusable(self._path, error.strerror) from None


def _in_use(path: str, holder: str) -> ConfigurationError:
    return ConfigurationError(
        f"store: {path} is in use by {holder}; one process at a time may open it: stop that one or "
        "choose another file"
    )


def _unusable(path: str, why: str | None) -> ConfigurationError:
    error = sqlite3.OperationalError(why or "it cannot be opened")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    return refusal(path, error)


def _check_other_names(path: str, found: os.stat_result) -> None:
    """Raises ConfigurationError where the log of a file that has several names may lie beside one
    of the others: whoever opens it without the log loses what is in there, and damages the file."""
    others = _names_beside(path, found)
    for other in others:
        if os.path.exists(other + "-wal"):
            raise ConfigurationError(
                f"store: {path} and {other} are one file, and what was accepted last is in the log "
                f"of the other name, {other}-wal; start the worker under that name"
            )
    if len(others) + 1 < found.st_nlink:
        raise ConfigurationError(
            f"store: {path} has {found.st_nlink} names (hard links), not all of them in its "
            "directory; what was accepted last may be in a log beside another one. Remove the "
            "other names; who wants a second file makes a copy"
        )
    logger.warning("store: %s has other names: %s", path, ", ".join(others))


def _names_beside(path: str, found: os.stat_result) -> list[str]:
    identity = (found.st_dev, found.st_ino)
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            names = [entry.path for entry in entries if entry.inode() == found.st_ino]
    except OSError:
        return []
    return [name for name in names if name != path and _identity(name) == identity]


def _sync_directory(path: str) -> None:
    """Have the disk keep the names of a new file and its log. SQLite ignores that this failed."""
    directory = os.path.dirname(path)
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _NO_DIRECTORY_SYNC:  # there is no such thing here
            return
        raise ConfigurationError(
            f"store: the directory {directory} cannot be synced ({error.strerror}), so that a new "
            "file in it might be gone after a power cut; look at the disk"
        ) from None


def _flock_holder(identity: Identity) -> str:
    """Who holds the lock, where the kernel tells."""
    device, inode = identity
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            for line in locks:
                words = line.split()
                if words[1:2] == ["FLOCK"] and words[5:6] == [wanted] and words[4].isdigit():
                    return f"process {words[4]}"
    except OSError:
        pass
    return "another process"


def _is_open_besides(fd: int, identity: Identity) -> bool:
    """Whether this process has the file open once more; yes where that cannot be told."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return True
    for name in names:
        try:
            if int(name) != fd and _identity_of(int(name)) == identity:
                return True
        except OSError:  # closed meanwhile, as the one that lists them is
            continue
    return False


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _identity(path: str) -> Identity | None:
    found = _status(path)
    return None if found is None else (found.st_dev, found.st_ino)


def _identity_of(fd: int) -> Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
