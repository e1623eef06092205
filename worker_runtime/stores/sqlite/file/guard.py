"""Keeps the file one process's own: no other opens it, and it stays the one at its path."""

from __future__ import annotations

import fcntl
import os

from worker_runtime.errors import ConfigurationError


class FileLock:
    """Holds `path`, a side file that names its holder's pid. The file stays when the lock is
    released: removing it could take the lock from somebody who has just opened it. The kernel
    releases the lock when its holder dies."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises ConfigurationError when another open store holds the lock or it cannot be made."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigurationError(
                f"store: the lock {self.path} cannot be opened ({error.strerror}); "
                "the directory must exist and be writable by this process"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise ConfigurationError(
                f"store: {self.path.removesuffix('.lock')} is in use by process {holder}; "
                "one process at a time may open it: stop that one or choose another file"
            ) from None
        except OSError as error:
            os.close(fd)
            raise ConfigurationError(
                f"store: the lock {self.path} cannot be taken ({error.strerror})"
            ) from None
        self._fd = fd

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class FileInPlace:
    """Remembers which file and which log are at `path`, and tells when they are not any more.

    A file that was deleted, or has another one in its place, takes commits as if nothing were: they
    are gone with the process.
    """

    def __init__(self, path: str) -> None:
        self._paths = (path, path + "-wal")
        self._found: list[tuple[int, int] | None] = []

    def remember(self) -> None:
        """Call it once the file is open for writing and has a log."""
        self._found = [_identity(path) for path in self._paths]

    def find_loss(self) -> str | None:
        """What has happened to the file or its log; None where both are in place."""
        for path, found in zip(self._paths, self._found, strict=True):
            if found is not None and _identity(path) != found:
                return f"{path} was deleted or replaced while it was open"
        return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
