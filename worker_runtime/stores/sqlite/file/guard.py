"""One process per file: an advisory lock that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os

from worker_runtime.errors import ConfigurationError


class FileLock:
    """Holds `path`, a side file that names its holder's pid. The file stays when the lock is
    released: removing it could take the lock from somebody who has just opened it."""

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
