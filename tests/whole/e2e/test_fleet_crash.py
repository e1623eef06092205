"""The guide's crash scenario, and the backend's own crash, with real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.helpers import ROOT, ServerProcess, eventually, free_port, start_server_process

HERE = Path(__file__).parent


class Backend:
    """The backend's process, and its registry and operations as a client sees them."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._http = http
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "tests.whole.e2e.fleet_backend", str(self.port)]
        self._process = subprocess.Popen(command, cwd=ROOT)

        async def ready() -> bool:
            try:
                async with self._http.get(f"{self.url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(ready, 15.0)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._http.request(method, f"{self.url}/api/v1{path}", json=body) as answer:
            return answer.status, await answer.json()

    async def status_of(self, worker_id: str) -> str | None:
        code, document = await self.ask("GET", f"/workers/{worker_id}")
        return document["status"] if code == 200 else None

    async def reaches(self, worker_id: str, status: str) -> None:
        async def reached() -> bool:
            return await self.status_of(worker_id) == status

        await eventually(reached, 15.0, what=f"{worker_id} {status}")

    async def start_operation(self, operation_id: str, source_file: Path) -> Any:
        body = {"task_id": operation_id, "source_file": str(source_file)}
        code, document = await self.ask("POST", "/data-processing/start", body)
        assert code == 200, document
        return document

    async def operation(self, operation_id: str) -> Any:
        code, document = await self.ask("GET", f"/operations/{operation_id}")
        assert code == 200, document
        return document["data"]


@asynccontextmanager
async def running_backend() -> AsyncIterator[Backend]:
    async with aiohttp.ClientSession() as http:
        backend = Backend(free_port(), http)
        try:
            await backend.start()
            yield backend
        finally:
            backend.kill()


def worker(
    backend: Backend, name: str, port: int | None = None
) -> AbstractAsyncContextManager[ServerProcess]:
    env = {
        "KTRDR_API_URL": backend.url,
        "WORKER_ID": name,
        "WORKER_BACKEND_CHECK": "0.2",
        "WORKER_STOP_WITHIN": "0",
        "LOG_LEVEL": "INFO",
    }
    return start_server_process(
        "fleet_tasks", "--dialects", "operations", env=env, cwd=HERE, port=port
    )


async def test_a_worker_crashes_is_noticed_and_comes_back(tmp_path: Path) -> None:
    async with (
        running_backend() as backend,
        worker(backend, "data-processing-worker-1") as one,
        worker(backend, "data-processing-worker-2") as two,
    ):
        for name in ("data-processing-worker-1", "data-processing-worker-2"):
            await backend.reaches(name, "AVAILABLE")

        go = tmp_path / "go"
        started = await backend.start_operation("op-1", go)
        busy, other = started["worker_id"], "data-processing-worker-2"
        crashed, survivor = one, two
        if busy == other:
            other, crashed, survivor = "data-processing-worker-1", two, one
        await backend.reaches(busy, "BUSY")

        async def half() -> bool:
            return bool((await backend.operation("op-1"))["progress"]["percentage"] == 50.0)

        await eventually(half)
        crashed.kill()
        await backend.reaches(busy, "TEMPORARILY_UNAVAILABLE")

        second = await backend.start_operation("op-2", go)
        assert second["worker_id"] == other
        code, refused = await backend.ask("POST", "/data-processing/start", {"source_file": "x"})
        assert code == 503
        assert "No workers available" in refused["detail"]

        async with worker(backend, busy, crashed.port) as restarted:
            await backend.reaches(busy, "AVAILABLE")
            third = await backend.start_operation("op-3", go)
            assert third["worker_id"] == busy
            go.touch()
            for operation_id in ("op-2", "op-3"):

                async def completed(operation_id: str = operation_id) -> bool:
                    found = await backend.operation(operation_id)
                    return bool(found["status"] == "completed")

                await eventually(completed)
                found = await backend.operation(operation_id)
                assert found["progress"]["percentage"] == 100.0
                assert found["result_summary"] == {"rows_processed": 2}
            assert "Worker registered successfully" in restarted.log

            assert await restarted.stop() == 0
            assert await backend.status_of(busy) is None  # it has said goodbye
        assert await survivor.stop() == 0


async def test_the_backend_crashes_and_its_workers_find_it_again(tmp_path: Path) -> None:
    async with running_backend() as backend, worker(backend, "w-1") as one:
        await backend.reaches("w-1", "AVAILABLE")
        go = tmp_path / "go"
        await backend.start_operation("during", go)
        backend.kill()
        go.touch()  # it ends while nobody can be told
        await eventually(lambda: "Operation completed: during" in one.log, 10.0)
        await backend.start()
        await backend.reaches("w-1", "AVAILABLE")
        found = await backend.operation("during")
        assert (found["status"], found["result_summary"]) == ("completed", {"rows_processed": 2})
        assert one.log.count("Worker registered successfully") == 2


async def test_a_stop_is_announced_with_the_operation_it_cuts_short(tmp_path: Path) -> None:
    async with running_backend() as backend, worker(backend, "w-1") as one:
        await backend.reaches("w-1", "AVAILABLE")
        await backend.start_operation("cut", tmp_path / "never")
        assert await one.stop() == 0
        found = await backend.operation("cut")
        assert found["status"] == "cancelled"
        assert "Graceful shutdown" in found["error_message"]
        assert await backend.status_of("w-1") is None
