"""What surrounds the code holds together: names, packaging, make targets, container files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import worker_runtime
from tests.support.helpers import ROOT

MODULES = sorted(Path(worker_runtime.__file__).parent.rglob("*.py"))
LINES_MAX = 400
# Longer than it should be: each of these may shrink, and must not grow past its ceiling.
LONGER = {
    "worker_runtime/runtime.py": 545,
}
# What stands above the runtime, and sees no more of it than its own methods and `doorway`.
DOORS = {
    *("arq", "cli", "client", "fleet", "standalone", "web"),
    *("__main__", "metrics", "progress_bridge", "testing", "tracing"),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_named_documented_and_short(path: Path) -> None:
    text = path.read_text()
    assert path.stem not in sys.stdlib_module_names
    assert ast.get_docstring(ast.parse(text)), "say what the module is responsible for"
    line_count = len(text.splitlines())
    assert line_count <= LONGER.get(path.relative_to(ROOT).as_posix(), LINES_MAX), "split it"


def test_no_door_reaches_for_a_part_of_the_runtime() -> None:
    package = Path(worker_runtime.__file__).parent
    rooms = {path: path.relative_to(package).parts[0].removesuffix(".py") for path in MODULES}
    assert set(rooms.values()) >= DOORS
    reaching = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path, room in rooms.items()
        for line in path.read_text().splitlines()
        if room in DOORS and re.search(r"\._?parts\b", line)
    ]
    assert reaching == []


def test_the_public_names_exist_sorted_and_documented() -> None:
    names = [name for name in worker_runtime.__all__ if name != "__version__"]
    assert names == sorted(names)
    undocumented = [name for name in names if not getattr(worker_runtime, name).__doc__]
    assert undocumented == []
    assert (ROOT / "worker_runtime" / "py.typed").exists()


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("worker_runtime", {"aiohttp", "click", "prometheus_client", "rich", "watchfiles"}),
        ("worker_runtime.standalone.health_check", {"aiohttp", "click", "prometheus_client"}),
        ("worker_runtime.cli", {"aiohttp", "prometheus_client", "rich", "watchfiles"}),
        ("worker_runtime.standalone.server", {"rich", "watchfiles"}),
    ],
)
def test_without_the_extras_everything_else_works_and_imports_no_more_than_it_needs(
    module: str, needless: set[str]
) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("redis", "opentelemetry")))  # as if they were not installed
import {module}
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert needless.isdisjoint(done.stdout.split())


def test_every_make_target_is_in_the_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    printed = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.findall(r"^  make (\w+) ", printed, re.MULTILINE) == phony[1].split()


def test_the_command_that_is_installed_is_the_one_the_container_starts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entrypoint = _exec_form("ENTRYPOINT")
    assert entrypoint[0] in project["scripts"]
    assert _exec_form("CMD") == ["run"]
    assert _exec_form("HEALTHCHECK") == [*entrypoint, "run", "--check"]


def test_the_container_is_not_root_and_stops_by_sigterm() -> None:
    final = _dockerfile().split("\nFROM ")[-1]
    user = re.search(r"^USER (\d+):(\d+)$", final, re.MULTILINE)
    assert user is not None
    assert min(int(user[1]), int(user[2])) > 0
    assert "\nSTOPSIGNAL SIGTERM\n" in final


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", _dockerfile(), re.MULTILINE)
    wanted = {name for line in copied for name in line.split()}
    assert wanted == kept
    assert all((ROOT / name).exists() for name in wanted)


def test_each_compose_worker_has_its_own_name_colour_and_port() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    workers = re.findall(r"^  (worker-\d+):$", compose, re.MULTILINE)
    assert len(workers) >= 2
    for pattern in (r"WORKER_NAME: (\S+)", r"WORKER_COLOR: (\S+)"):
        assert len(set(re.findall(pattern, compose))) == len(workers), pattern
    ports = re.findall(r'ports: \["[\d.]+:(\d+):', compose)  # those of the profiles too
    assert len(set(ports)) == len(ports) > len(workers)
    assert re.findall(r"WORKER_NAME: (\S+)", compose) == workers


def test_the_sandbox_snippet_uses_only_what_the_load_balancer_reads() -> None:
    readme = (ROOT / "examples" / "sandbox" / "README.md").read_text()
    snippet = (ROOT / "examples" / "sandbox" / "docker-compose.override.yml").read_text()
    read_by_it = set(re.findall(r"^\| `(WORKER_\w+_URL)`", readme, re.MULTILINE))
    given = dict(re.findall(r"(WORKER_\w+_URL): http://([\w-]+):8090$", snippet, re.MULTILINE))
    assert len(read_by_it) == 6
    assert len(given) == 2
    assert given.keys() <= read_by_it
    assert all(f"\n  {service}:\n" in snippet for service in given.values())


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def _exec_form(instruction: str) -> list[str]:
    """The argument list of an instruction of the final stage, which must be in exec form."""
    final = _dockerfile().split("\nFROM ")[-1].replace("\\\n", " ")
    found = re.search(rf"^{instruction} [^\[\n]*(\[.*\])$", final, re.MULTILINE)
    assert found is not None, f"no {instruction} in exec form"
    words: list[str] = json.loads(found[1])
    return words
