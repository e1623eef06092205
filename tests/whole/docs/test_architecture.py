"""docs/architecture.md is compared with the code: floors, folders, a job's way, who writes what."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from types import FrameType

import worker_runtime
from tests.support.helpers import ROOT
from tests.support.pages import blocks_in, names_in, sections_of, tables_in
from worker_runtime import Runtime, task
from worker_runtime.model.job import Job
from worker_runtime.model.states import Reason, State

PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = dict(sections_of(PAGE))
PACKAGE = Path(worker_runtime.__file__).parent


def test_the_floors_are_those_that_the_tool_enforces() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    real = [sorted(re.split(r" [|:] ", layer)) for layer in layers]
    [table] = [t for t in tables_in(SECTIONS["The floors"]) if t[0][0] == "floor"]
    shown = [sorted(names_in(floor)) for row in table[1:] for floor in row[1].split(">") if floor]
    assert shown == real


def test_every_folder_has_its_sentence() -> None:
    [table] = [t for t in tables_in(SECTIONS["The floors"]) if t[0][0] == "folder"]
    shown = {names_in(row[0])[0]: row[1] for row in table[1:]}
    real = {
        f"{found.parent.relative_to(PACKAGE)}/": _first_sentence(found)
        for found in PACKAGE.rglob("__init__.py")
        if found.parent != PACKAGE
    }
    assert shown == real


def test_no_folder_has_more_than_twelve_modules() -> None:
    """docs/decisions/0041: the thirteenth asks for the sentence that splits them."""
    counts = {
        folder: sum(1 for path in folder.glob("*.py") if path.stem != "__init__")
        for folder in (PACKAGE, *PACKAGE.rglob("*"))
        if folder.is_dir()
    }
    assert {folder: count for folder, count in counts.items() if count > 12} == {}


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<=\.)\s", text.replace("\n", " "))[0]


async def test_a_jobs_way_is_the_one_that_is_shown() -> None:
    @task
    async def double(number: int) -> int:
        return 2 * number

    entered: list[str] = []
    # What runs on a clock may fall in between.
    beside = {PACKAGE / "lifecycle.py", *(PACKAGE / "services").iterdir()}

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and path not in beside:
            entered.append(path.stem)

    async def run_one() -> None:
        async with Runtime([double]) as runtime:
            for number in range(3):  # the first ones make the slot and wake it up
                await (await runtime.enqueue(double, number)).result()
            await runtime.join()
            sys.setprofile(note)
            try:
                job = await runtime.enqueue(double, 4)
                await job.result()
            finally:
                sys.setprofile(None)

    # Without context variables, as in a program of its own: those of a test are looked at by name.
    await asyncio.create_task(run_one(), context=contextvars.Context())
    files = [name for at, name in enumerate(entered) if at == 0 or entered[at - 1] != name]
    [way] = blocks_in(SECTIONS["One job's way"], "text")
    assert " > ".join(files) == " ".join(way.split())
    [(calls, count)] = re.findall(r"(\d+)\s+calls in (\d+) files", SECTIONS["One job's way"])
    assert len(set(files)) == int(count)
    if sys.version_info[:2] == (3, 11):
        assert len(entered) in (int(calls), int(calls) - 1)


def test_every_field_of_a_job_has_the_writers_that_are_shown() -> None:
    [table] = tables_in(SECTIONS["Who writes what"])
    shown = {
        field: {*names_in(row[1]), *names_in(row[2])} - {"activity_made"}
        for row in table[1:]
        for field in names_in(row[0])
    }
    assert shown == _writers_of(set(Job.__struct_fields__))


def _writers_of(fields: set[str]) -> dict[str, set[str]]:
    """The modules that assign a field of something called `job`."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and node.attr in fields
                and isinstance(node.value, ast.Name)
                and node.value.id == "job"
            ):
                found[node.attr].add(str(path.relative_to(PACKAGE).with_suffix("")))
    return dict(found)


def test_the_states_page_has_every_state_and_reason() -> None:
    page = (ROOT / "docs" / "job_states.md").read_text()
    by_heading = {table[0][0]: table[1:] for table in tables_in(page)}
    assert [names_in(row[0])[0] for row in by_heading["state"]] == [str(s) for s in State]
    assert [names_in(row[0])[0] for row in by_heading["`reason`"]] == [str(r) for r in Reason]
