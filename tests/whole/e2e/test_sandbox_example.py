"""The example that brings its own task serves it as its README says."""

from __future__ import annotations

import hashlib
import runpy

import aiohttp

from tests.support.helpers import ROOT, start_server_process

EXAMPLE = ROOT / "examples" / "sandbox"


async def test_the_load_balancer_runs_the_examples_own_task() -> None:
    # The built-in task would fail at this rate, so a 200 comes from the example's own.
    env = {"FAILURE_RATE": "1", "RESPONSE_DELAY_MS": "1", "WORKER_NAME": "python-worker-1"}
    async with (
        start_server_process("tasks", cwd=EXAMPLE, env=env) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        async with session.post("/task", json={"id": "a", "weight": 0.01}) as answer:
            done = await answer.json()
            assert answer.status == 200, done
        assert (done["id"], done["worker"]) == ("a", "python-worker-1")
        assert await server.stop() == 0


def test_the_example_task_is_a_plain_function() -> None:
    derive_key = runpy.run_path(str(EXAMPLE / "tasks.py"))["derive_key"]
    wanted = hashlib.pbkdf2_hmac("sha256", b"a", b"sandbox", 2000).hex()
    assert derive_key(id="a", weight=0.01) == wanted
