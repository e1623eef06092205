"""`worker-runtime jobs`, as a process, against a real worker and against its file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.support.helpers import ROOT, ServerProcess, free_port, start_server_process

TASKS = """
import asyncio
from worker_runtime import task

@task
async def fail(text: str) -> None:
    raise ValueError(text)

@task
async def fine() -> int:
    return 1

@task(queue="slow")
async def wait() -> None:
    await asyncio.sleep(60)
"""


class Done(NamedTuple):
    code: int
    out: str
    error: str


async def jobs(*arguments: str, **environment: str) -> Done:
    def run() -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "worker_runtime", "jobs", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=50,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return await asyncio.to_thread(run)


async def accept(server: ServerProcess, task: str, *args: str, wait_s: int = 5) -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{server.url}/v1/jobs?wait_s={wait_s}", json={"task": task, "args": args}
        ) as answer,
    ):
        assert answer.status in (200, 202), await answer.text()
        job_id: str = (await answer.json())["id"]
        return job_id


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "failing_tasks.py").write_text(TASKS)
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def server(tmp_path: Path, store: str) -> AsyncIterator[ServerProcess]:
    environment = {"WORKER_STORE": store, "WORKER_STOP_WITHIN": "0"}
    async with start_server_process("failing_tasks", env=environment, cwd=tmp_path) as started:
        yield started


async def test_dead_letters_are_seen_and_acted_on(server: ServerProcess) -> None:
    failed = [await accept(server, "fail", f"[bold]no {n}[/bold]") for n in range(3)]
    waiting = await accept(server, "wait", wait_s=0)
    at = ("--url", server.url)

    listed = await jobs("list", *at, "--state", "failed")
    assert listed.code == 0, listed.error
    assert [job_id in listed.out for job_id in (*failed, waiting)] == [True, True, True, False]
    assert "[bold]no 0[/bold]" in listed.out  # what a job says is no markup
    page = json.loads((await jobs("list", *at, "--limit", "1", "--json")).out)
    assert [job["id"] for job in page["jobs"]] == [waiting]
    rest = json.loads((await jobs("list", *at, "--cursor", page["cursor"], "--json")).out)
    assert [job["id"] for job in rest["jobs"]] == failed[::-1]

    shown = await jobs("show", failed[0], *at)
    assert shown.code == 0, shown.error
    assert "attempt 1" in shown.out
    assert "error: ValueError: [bold]no 0[/bold]" in shown.out

    hostile = await accept(server, "fail", "no\n\x1b[2Jcleared\u2028\x9b1A")  # B27
    for arguments in (("show", hostile), ("list", "--state", "failed")):
        shown = await jobs(*arguments, *at)
        assert all(c == "\n" or c.isprintable() for c in shown.out), ascii(shown.out)
        assert "\\x1b[2Jcleared\\u2028\\x9b1A" in shown.out
    assert (await jobs("delete", hostile, *at)).code == 0

    retried = await jobs("retry", failed[0], PORT=str(server.port))  # the default address
    assert (retried.code, retried.out) == (0, f"queued again: {failed[0]}\n")
    everything = await jobs("retry", "--all", "--task", "fail", *at)
    assert everything.code == 0
    assert everything.out.splitlines()[-1].endswith("queued again")

    cancelled = await jobs("cancel", waiting, *at)
    assert (cancelled.code, cancelled.out.partition(":")[2].strip()) == (0, waiting)

    deleted = await jobs("delete", failed[1], *at)
    assert (deleted.code, deleted.out) == (0, f"deleted: {failed[1]}\n")
    gone = await jobs("show", failed[1], *at)
    assert (gone.code, gone.out) == (1, "")
    assert gone.error == f"worker-runtime: no job '{failed[1]}' is kept\n"
    rest_gone = await jobs("delete", "--all", "--state", "failed", *at)
    assert rest_gone.out.splitlines()[-1] == "2 deleted"


async def test_a_file_is_looked_into_with_and_without_its_worker(
    server: ServerProcess, store: str
) -> None:
    failed = await accept(server, "fail", "no")
    await accept(server, "fine")
    waiting = await accept(server, "wait", wait_s=0)
    beside = json.loads((await jobs("list", "--store", store, "--json")).out)
    assert {job["id"] for job in beside["jobs"]} >= {failed, waiting}
    assert await server.stop() == 0

    listed = await jobs("list", "--store", store, "--limit", "2", "--json")
    page = json.loads(listed.out)
    assert [job["task"] for job in page["jobs"]] == ["wait", "fine"]
    for cursor in (str(2**63), "9" * 100, "1.5", "٣"):  # B26
        wrong = await jobs("list", "--store", store, "--cursor", cursor)
        assert (wrong.code, wrong.out) == (2, "")
        assert f"--cursor {cursor[:40]!r} is not one that a list gave" in wrong.error
    older = await jobs("list", "--store", store, "--cursor", page["cursor"])
    assert failed in older.out
    only = json.loads((await jobs("list", "--store", store, "--state", "failed", "--json")).out)
    assert [job["id"] for job in only["jobs"]] == [failed]
    shown = await jobs("show", waiting, "--store", store, "--json")
    assert json.loads(shown.out)["state"] == "queued"  # interrupted by the stop
    missing = await jobs("show", "nobody", "--store", store)
    assert (missing.code, missing.error) == (1, "worker-runtime: no job 'nobody' is kept\n")
    assert not Path(store.removeprefix("sqlite:///") + "-wal").exists()  # nothing was written


async def test_dead_letters_are_acted_on_in_a_file_that_no_worker_has(
    server: ServerProcess, store: str
) -> None:
    failed = [await accept(server, "fail", "no") for _ in range(3)]
    fine = await accept(server, "fine")
    at = ("--store", store)
    used = await jobs("retry", failed[0], *at)
    assert (used.code, used.out) == (2, "")
    assert f"is in use by process {server.process.pid}" in used.error
    assert await server.stop() == 0

    retried = await jobs("retry", failed[0], *at)
    assert (retried.code, retried.out) == (0, f"queued again: {failed[0]}\n1 queued again\n")
    refused = await jobs("retry", failed[1], fine, *at)
    assert (refused.code, refused.out) == (1, "")
    assert f"job {fine} is completed, not cancelled or failed" in refused.error
    missing = await jobs("delete", "nobody", *at)
    assert (missing.code, missing.error) == (1, "worker-runtime: no job 'nobody' is kept\n")
    deleted = await jobs("delete", fine, *at)
    assert (deleted.code, deleted.out) == (0, f"deleted: {fine}\n1 deleted\n")
    rest = await jobs("retry", "--all", *at)
    assert rest.out.splitlines()[-1] == "2 queued again"
    page = json.loads((await jobs("list", *at, "--json")).out)
    assert {job["id"]: job["state"] for job in page["jobs"]} == dict.fromkeys(failed, "queued")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["retry"], 2, "give the ids of jobs, or --all"),
        (["retry", "x", "--all"], 2, "give the ids of jobs, or --all"),
        (["retry", "x", "--queue", "mail"], 2, "go with --all"),
        (["delete", "--all"], 2, "--all needs --state"),
        (["cancel"], 2, "Missing argument"),
        (["list", "--state", "odd"], 2, "'odd' is not one of"),
        (["list", "--url", "localhost:1"], 2, "must begin with http://"),
        (["list", "--store", "sqlite:///none.db"], 2, "there is no file none.db"),
        (["list", "--store", "redis://localhost"], 2, "must name a file"),
        (["list", "--store", "sqlite:///x.db", "--url", "http://x"], 2, "exclude each other"),
    ],
)
async def test_a_wrong_use_is_explained(arguments: list[str], code: int, says: str) -> None:
    done = await jobs(*arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.error
    assert "Traceback" not in done.error


async def test_where_no_worker_answers_the_exit_code_says_so() -> None:
    done = await jobs("list", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.code == 3
    assert done.error.startswith("worker-runtime: no worker answers at http://127.0.0.1:")


async def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, whatever its name says" * 100)
    done = await jobs("list", "--store", f"sqlite:///{path}")
    assert done.code == 2
    assert "is damaged or not an SQLite file" in done.error
