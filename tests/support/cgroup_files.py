"""The files of a control group, as a kernel would show them."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_v2(root: Path, path: str = "/") -> None:
    write(
        root,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        },
    )
