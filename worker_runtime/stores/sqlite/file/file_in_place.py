"""Whether the file that is written is still the one at its path.

A file that was deleted, or has another one in its place, takes commits as if nothing were: they are
gone with the process.
"""

from __future__ import annotations

import os


class FileInPlace:
    """Remembers which file and which log are at `path`, and tells when they are not any more."""

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
