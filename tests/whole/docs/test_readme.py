"""The README is run: every program, every shell session, and its table of settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from tests.support.helpers import ROOT, free_port, run_program
from worker_runtime.environment import variables_of
from worker_runtime.settings import Settings

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROGRAMS = [
    (source, BLOCKS[at + 1][1] if BLOCKS[at + 1 : at + 2] and BLOCKS[at + 1][0] == "output" else "")
    for at, (kind, source) in enumerate(BLOCKS)
    if kind == "python"
]
SESSIONS = [source for kind, source in BLOCKS if kind == "console"]


def test_there_is_something_to_run() -> None:
    assert len(PROGRAMS) >= 3
    assert SESSIONS
    assert {kind for kind, _ in BLOCKS} <= {"python", "output", "console", "sh"}


@pytest.mark.parametrize(("source", "output"), PROGRAMS)
def test_python(tmp_path: Path, source: str, output: str) -> None:
    done = run_program(tmp_path, source)
    assert (done.returncode, done.stdout) == (0, output), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell session")
@pytest.mark.parametrize("session", SESSIONS)
def test_console(tmp_path: Path, session: str) -> None:
    """Runs the lines after `$`; a started worker is waited for. In the output shown, `...` stands
    for anything."""
    port = free_port()
    for source, _ in PROGRAMS:  # a program that begins with its file's name is that file
        named = re.match(r"# (\w+\.py)\n", source)
        if named:
            (tmp_path / named[1]).write_text(source)
    _install_command(tmp_path)
    commands, patterns = _parsed(session.replace("8080", str(port)))
    ready = f"until worker-runtime run --check --port {port} >/dev/null 2>&1; do sleep 0.1; done"
    script = "\n".join(f"{c}\n{ready}" if c.endswith("&") else c for c in commands)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "PORT": str(port),
    }
    done = subprocess.run(
        ["bash", "-ec", f"set -m\n{script}\nwait"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    # An answer of the API ends without a line break.
    assert re.fullmatch("\n?".join([*patterns, ""]), done.stdout), done.stdout + done.stderr


def _install_command(directory: Path) -> None:
    command = directory / "worker-runtime"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m worker_runtime "$@"\n')
    command.chmod(0o755)


def _parsed(session: str) -> tuple[list[str], list[str]]:
    lines = session.splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    shown = [line for line in lines if not line.startswith("$ ")]
    return commands, [re.escape(line).replace(r"\.\.\.", ".*") for line in shown]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_settings_are_all_there_with_their_defaults() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) ?\| (.+) \|$", README, re.MULTILINE)
    shown = [(re.findall(r"`(\w+)`", names), default) for names, default, _ in rows]
    defaults = Settings()
    real = [
        (list(variables_of(hint)), _shown(getattr(defaults, field)))
        for field, hint in typing.get_type_hints(Settings, include_extras=True).items()
        if variables_of(hint)
    ]
    assert shown == real


def _shown(default: object) -> str:
    if default is None:
        return ""
    if default is False:
        return "no"
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)
