"""The fleets' examples as compose.yaml starts them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.helpers import ROOT, eventually, free_port, start_server_process

EXAMPLES = ROOT / "examples"


async def ask(http: aiohttp.ClientSession, method: str, url: str, body: Any = None) -> Any:
    async with http.request(method, url, json=body) as answer:
        return await answer.json()


async def test_vera_polls_its_example_to_the_end() -> None:
    env = {"WORKER_IMPORT": "cluster_tasks", "WORKER_ID": "vera-worker-1", "MAX_WORKERS": "2"}
    async with (
        start_server_process("--dialects", "vera", env=env, cwd=EXAMPLES / "vera") as server,
        aiohttp.ClientSession() as http,
    ):
        payload = {"function": "analyze_data", "args": [1, 2, 3], "kwargs": {"mode": "fast"}}
        body = {"payload": payload, "priority": "high"}
        submitted = await ask(http, "POST", f"{server.url}/task/submit", body)

        async def ended() -> Any:
            record = await ask(http, "GET", f"{server.url}/task/{submitted['task_id']}")
            return record if record["status"] in ("completed", "failed") else None

        record = await eventually(ended)
        assert record["result"]["centre"] == 2.0
        call = {"tool_name": "add", "tool_input": {"a": 1.0, "b": 2.0}}
        execution: dict[str, Any] = {"type": "tool_call", "payload": call, "timeout": 5}
        executed = await ask(http, "POST", f"{server.url}/execute", execution)
        assert (executed["success"], executed["data"]) == (True, 3.0)
        capabilities = await ask(http, "GET", f"{server.url}/capabilities")
        assert capabilities["max_concurrent_tasks"] == 2
        hidden = {"payload": {"function": "statistics"}}
        assert "detail" in await ask(http, "POST", f"{server.url}/task/submit", hidden)


async def test_a_backend_dispatches_to_the_data_processing_worker(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("symbol,price\n EURUSD ,1.07\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    directory = EXAMPLES / "data_processing"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKEND_PORT": str(port)}
    with subprocess.Popen([sys.executable, directory / "backend.py"], env=environment) as backend:
        try:
            env = {
                "KTRDR_API_URL": url,
                "DATA_DIR": str(tmp_path),
                "WORKER_TYPE": "data_processing",
            }
            async with (
                start_server_process(
                    "data_processing_worker", "--dialects", "operations", env=env, cwd=directory
                ),
                aiohttp.ClientSession() as http,
            ):

                async def registered() -> Any:
                    try:
                        return await ask(http, "GET", f"{url}/api/v1/workers")
                    except aiohttp.ClientError:
                        return None

                (worker,) = await eventually(registered, 15.0)
                assert worker["status"] == "AVAILABLE"
                assert worker["worker_type"] == "data_processing"
                assert worker["worker_id"].startswith("data_processing-worker-")
                body = {"source_file": "test.csv", "operations": ["clean"]}
                started = await ask(http, "POST", f"{url}/api/v1/data-processing/start", body)
                path = f"{url}/api/v1/operations/{started['operation_id']}"

                async def completed() -> Any:
                    data = (await ask(http, "GET", path))["data"]
                    return data if data["status"] == "completed" else None

                data = await eventually(completed)
                assert data["progress"]["percentage"] == 100
                assert data["result_summary"]["rows_processed"] == 1
        finally:
            backend.kill()
    assert "EURUSD,1.07" in (tmp_path / "test.processed.csv").read_text()
