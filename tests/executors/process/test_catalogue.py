"""Tasks of the program's own main module, in real programs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.helpers import ROOT

PROGRAM = """
import asyncio, dataclasses
from worker_runtime import JobFailed, Retry, Runtime, task

@dataclasses.dataclass
class Point:
    x: int
    y: int

class Odd(Exception):
    pass

@task(run_in="process")
def mirror(point: Point) -> Point:
    return Point(point.y, point.x)

@task(run_in="process", retry=Retry(max_attempts=2, delay_s=0.001, only_for=(Odd,)))
def fail(marker: str) -> None:
    with open(marker, "a") as file:
        file.write("x")
    raise Odd(marker)

async def main():
    async with Runtime([mirror, fail], processes=1) as runtime:
        print(await (await runtime.enqueue(mirror, Point(1, 2))).result(timeout_s=20))
        try:
            await (await runtime.enqueue(fail, "marker")).result(timeout_s=20)
        except JobFailed as error:
            print(error.error_type, open("marker").read())
"""
GUARD = """
if __name__ == "__main__":
    asyncio.run(main())
"""


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_script_runs_its_own_tasks_in_children(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM + GUARD)
    done = run(["program.py"], tmp_path)
    assert done.stdout == "Point(x=2, y=1)\nOdd xx\n", done.stderr


def test_so_does_a_module_that_is_run_by_name(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "program.py").write_text(PROGRAM + GUARD)
    done = run(["-m", "package.program"], tmp_path)
    assert done.stdout == "Point(x=2, y=1)\nOdd xx\n", done.stderr


def test_so_does_a_script_of_any_name_a_directory_and_an_archive(tmp_path: Path) -> None:
    (tmp_path / "program").write_text(PROGRAM + GUARD)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "__main__.py").write_text(PROGRAM + GUARD)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", PROGRAM + GUARD)
    for program in ("program", "directory", "archive.zip"):
        (tmp_path / "marker").unlink(missing_ok=True)
        done = run([program], tmp_path)
        assert done.stdout == "Point(x=2, y=1)\nOdd xx\n", done.stderr


def test_a_main_module_without_a_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    done = run(["-c", PROGRAM + "asyncio.run(main())"], tmp_path)
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert "move the task to a module" in done.stderr


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM + "asyncio.run(main())")
    done = run(["program.py"], tmp_path)
    assert done.returncode == 1
    assert 'if __name__ == "__main__"' in done.stderr


def test_the_rendering_example_writes_an_image(tmp_path: Path) -> None:
    done = run([str(ROOT / "examples" / "mandelbrot.py"), "out.png", "120"], tmp_path)
    assert done.stdout.startswith("out.png: 120 x 80 pixels in "), done.stderr
    image = (tmp_path / "out.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert "100%" in done.stderr
