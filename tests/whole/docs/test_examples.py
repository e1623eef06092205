"""Every example runs as printed, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import aiohttp

from tests.support.helpers import ROOT, eventually, free_port, start_server_process

EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

PLAIN_ASYNCIO = """\
greet: hello world
fetch: 200 at attempt 3
count_words: 6
progress: 100.0 line 2
enqueue_many: ['hello Ada', 'hello Grace']
the same id is the same job: True True False
cancelled before it was due: True
job ID was cancelled: changed my mind
too_slow: timeout
refused: task greet: unknown argument `nam`; arguments by name: name
"""


def test_plain_asyncio() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "plain_asyncio.py"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert re.sub(r"[0-9a-f]{32}", "ID", done.stdout) == PLAIN_ASYNCIO


async def test_embed_aiohttp() -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "embed_aiohttp.py"],
        env={**ENVIRONMENT, "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            async with aiohttp.ClientSession() as http:

                async def create(name: str) -> str:
                    try:
                        async with http.post(f"{url}/users?name={name}") as answer:
                            assert answer.status == 201
                            mail: str = (await answer.json())["mail"]
                            return mail
                    except aiohttp.ClientConnectionError:
                        return ""

                mail = await eventually(lambda: create("Ada"))
                async with http.get(f"{url}/background/jobs/{mail}?wait_s=5") as answer:
                    assert (await answer.json())["result"] == "welcome, Ada"
                await create("Grace")
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert [line for line in output.splitlines() if "====" not in line and "Press" not in line] == [
        "welcomed Ada",
        "welcomed Grace",
        "stopped",
    ]


async def test_sandbox_tasks() -> None:
    async with (
        start_server_process("tasks", cwd=EXAMPLES / "sandbox") as server,
        aiohttp.ClientSession() as http,
    ):
        body = {"id": "a", "weight": 0.01}
        async with http.post(f"{server.url}/task", json=body) as answer:
            done = await answer.json()
        assert (answer.status, done["id"]) == (200, "a")
        assert re.fullmatch(r"[0-9a-f]{64}", done["result"])
        assert await server.stop() == 0
