"""`worker-runtime fleet status` and `worker-runtime top` before real workers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import msgspec
from aiohttp import web

from tests.support.applications import running, stand_in
from tests.support.fleet_worker import serving
from tests.support.helpers import ROOT, free_port
from worker_runtime import task
from worker_runtime.contracts.registration import Registration
from worker_runtime.fleet import Fleet, FleetSettings
from worker_runtime.fleet.routes import mount


@task
async def nap() -> None:
    await asyncio.sleep(0)


async def run(*arguments: str, columns: int = 200) -> tuple[int, str]:
    """The exit code and everything printed, of a command in a process of its own."""

    def call() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "worker_runtime", *arguments],
            cwd=ROOT,
            env={"PATH": "", "COLUMNS": str(columns), "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return await asyncio.get_running_loop().run_in_executor(None, call)


async def test_status_of_workers_that_answer_and_one_that_does_not() -> None:
    gone = f"127.0.0.1:{free_port()}"
    async with serving(nap) as one, serving(nap, token="secret") as two:
        code, text = await run("fleet", "status", one.url, two.url)
        assert (code, text.count("AVAILABLE")) == (0, 2)
        assert one.url in text
        code, text = await run("fleet", "status", one.url, gone)
        assert code == 1
        assert "TEMPORARILY_UNAVAILABLE" in text
        assert "ClientConnectorError" in text
        assert "Traceback" not in text


async def test_what_a_worker_says_is_shown_and_not_obeyed() -> None:
    async def hostile(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="[/red] \x1b]0;title\x07[bold]x")

    async with stand_in(hostile) as url:
        code, text = await run("fleet", "status", url)
        assert code == 1
        assert "[/red]" in text
        assert "[bold]x" in text
        assert "\x1b" not in text
        assert "\x07" not in text
        code, text = await run("top", "--count", "1", url)
        assert (code, "[/red]" in text) == (0, True)


async def test_a_narrow_terminal_still_names_the_workers() -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    _, text = await run("fleet", "status", gone, columns=60)
    column = "".join(line.split("│")[1].strip() for line in text.splitlines() if "│" in line)
    assert gone in column


async def test_a_narrow_terminal_shows_in_one_piece_why_a_worker_did_not_answer() -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    for command in (("fleet", "status"), ("top", "--count", "1")):
        _, text = await run(*command, gone, columns=80)
        assert f"{gone}: ClientConnectorError" in text
        assert text.endswith("\n")


async def test_status_as_json_through_a_backend() -> None:
    fleet = Fleet(settings=FleetSettings(check_every_s=60.0))
    app = web.Application()
    mount(app, fleet)
    async with running(app) as backend, serving(nap, name="w-1") as worker:
        fleet.register(Registration("w-1", "data_processing", worker.url))
        code, text = await run("fleet", "status", "--json", backend)
    (record,) = json.loads(text)
    assert code == 0
    assert record["endpoint_url"] == worker.url
    assert record["status"] == "AVAILABLE"
    assert record["metadata"]["memory_percent"] > 0


async def test_top_counts_the_jobs_that_end() -> None:
    async with serving(nap) as worker:
        looking = asyncio.ensure_future(run("top", "--count", "3", "--interval", "0.3", worker.url))
        while not looking.done():
            await (await worker.runtime.enqueue(nap)).wait()
            await asyncio.sleep(0.005)
        code, text = await looking
    assert code == 0, text
    rates = [cells[7].strip() for line in text.splitlines() if len(cells := line.split("│")) > 8]
    assert any(rate and float(rate) > 0 for rate in rates), text


async def test_a_url_is_asked_for() -> None:
    code, text = await run("fleet", "status")
    assert code == 2
    assert "URL" in text


def test_the_registry_speaks_in_plain_values() -> None:
    member = Fleet(["http://h"]).members.get("http://h")
    assert member is not None
    assert msgspec.json.decode(msgspec.json.encode(member.document()))["worker_id"] == "http://h"
