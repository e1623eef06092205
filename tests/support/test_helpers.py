"""The loop option and the polling helper do what the other tests rely on."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import ROOT, eventually, free_port

HANGING = """
import asyncio, threading, time
import pytest

async def test_wait(): await asyncio.Event().wait()

async def test_spin():
    while True: await asyncio.sleep(0)

async def test_block(): time.sleep(3600)

def test_thread():
    thread = threading.Thread(target=time.sleep, args=[3600], daemon=True)
    thread.start()
    thread.join()

@pytest.mark.timeout(20)
async def test_after_them(): pass
"""


@pytest.mark.both_loops
async def test_each_loop(request: pytest.FixtureRequest) -> None:
    loop = type(asyncio.get_running_loop()).__module__
    wanted = "uvloop" if "uvloop" in request.node.name else "asyncio"
    assert loop.startswith(wanted)


async def test_eventually_returns_the_first_truthy_value() -> None:
    seen = iter([0, "", "there"])
    assert await eventually(lambda: next(seen)) == "there"


async def test_eventually_names_the_condition_that_never_came() -> None:
    with pytest.raises(AssertionError, match=r"the moon: still False after 0\.02 s"):
        await eventually(lambda: False, 0.02, what="the moon")


async def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        assert server.sockets[0].getsockname()[1] == port


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_test_that_hangs_fails_and_the_next_one_runs(tmp_path: Path, loop: str) -> None:
    file = tmp_path / "test_hanging.py"
    file.write_text(HANGING)
    options = ["-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    limit = [f"--loop-kind={loop}", "-o", "timeout=0.3"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *limit, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert re.search(r"^4 failed, 1 passed", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.count("Timeout (>0.3s)") >= 4, done.stdout
