"""Whether strace is here and may trace."""

from __future__ import annotations

import shutil
import subprocess

import pytest

STRACE = shutil.which("strace")


def can_trace() -> bool:
    if STRACE is None:
        return False
    probe = subprocess.run([STRACE, "-qq", "-o", "/dev/null", "true"], capture_output=True)
    return probe.returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is absent or may not trace")
