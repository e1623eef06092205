"""The guide's own tests of its data-processing worker, run against the example."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from examples.data_processing.data_processing_worker import process_data
from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import ROOT, eventually

EXAMPLE = ROOT / "examples" / "data_processing" / "data_processing_worker.py"


@pytest_asyncio.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    settings: dict[str, Any] = {"dialects": ("operations",), "name": "data-processing-worker-1"}
    async with serving(process_data, **settings) as worker:
        yield worker


def write_rows(path: Path, count: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["symbol", "price"])
        writer.writerows([" EURUSD ", "" if n % 10 == 0 else str(n)] for n in range(count))


async def completed(client: Worker, operation_id: str, status: str = "completed") -> Any:
    async def poll() -> Any:
        answer = await client.ask("GET", f"/api/v1/operations/{operation_id}")
        data = answer.document["data"]
        return data if data["status"] == status else None

    return await eventually(poll)


def test_a_domain_is_one_file_of_at_most_a_hundred_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 100


async def test_start_endpoint_accepts_task_id(client: Worker) -> None:
    body = {"task_id": "test-operation-123", "source_file": "test.csv", "operations": ["clean"]}
    response = await client.ask("POST", "/data-processing/start", body)
    assert response.status == 200
    assert response.document["operation_id"] == "test-operation-123"
    assert response.document["status"] == "started"
    assert response.document["worker_id"] == "data-processing-worker-1"


async def test_start_endpoint_generates_id_if_not_provided(client: Worker) -> None:
    body = {"source_file": "test.csv", "operations": ["clean"]}
    response = await client.ask("POST", "/data-processing/start", body)
    assert response.status == 200
    assert response.document["operation_id"].startswith("worker_dp_")


async def test_health_endpoint_reports_idle(client: Worker) -> None:
    response = await client.ask("GET", "/health")
    assert response.status == 200
    assert response.document["healthy"] is True
    assert response.document["worker_status"] == "idle"
    assert response.document["service"] == "data-processing-worker"


async def test_operations_endpoint_exists(client: Worker) -> None:
    response = await client.ask("GET", "/api/v1/operations")
    assert response.status == 200
    assert response.document["data"]["operations"] == []


# Beyond the guide's: what the worker is for


async def test_rows_are_cleaned_transformed_and_validated(client: Worker, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.csv", 1000)
    body = {
        "task_id": "rows",
        "source_file": "in.csv",
        "operations": ["clean", "transform", "validate"],
        "estimated_rows": 1000,
    }
    assert (await client.ask("POST", "/data-processing/start", body)).status == 200
    data = await completed(client, "rows")
    assert data["operation_type"] == "data_processing"
    assert data["progress"]["percentage"] == 100
    summary = data["result_summary"]
    assert summary.pop("duration_seconds") >= 0
    assert summary == {
        "rows_processed": 1000,
        "rows_rejected": 100,
        "output_file": "in.processed.csv",
    }
    with (tmp_path / "in.processed.csv").open(newline="") as output:
        rows = list(csv.DictReader(output))
    assert (len(rows), rows[0]) == (900, {"symbol": "eurusd", "price": "1"})
    metrics = await client.ask("GET", "/api/v1/operations/rows/metrics")
    names = {metric["name"] for metric in metrics.document["data"]["metrics"]}
    assert names == {"rows", "rows_processed"}


async def test_a_long_operation_can_be_cancelled(client: Worker, tmp_path: Path) -> None:
    write_rows(tmp_path / "long.csv", 200_000)
    body = {"task_id": "long", "source_file": "long.csv", "operations": ["clean", "validate"]}
    await client.ask("POST", "/data-processing/start", body)
    answer = await client.ask("DELETE", "/api/v1/operations/long/cancel")
    assert answer.document["success"] is True
    assert (await completed(client, "long", "cancelled"))["result_summary"] is None

    async def idle() -> bool:
        health = (await client.ask("GET", "/health")).document
        return bool(health["worker_status"] == "idle")

    await eventually(idle)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"source_file": "a.csv"}, "operations"),
        ({"source_file": "a.csv", "operations": ["explode"]}, "operations"),
        ({"source_file": 5, "operations": []}, "source_file"),
    ],
)
async def test_a_wrong_request_is_refused(client: Worker, body: Any, named: str) -> None:
    answer = await client.ask("POST", "/data-processing/start", body)
    assert answer.status == 422
    assert named in answer.document["detail"]


async def test_files_outside_of_the_data_directory_are_not_touched(client: Worker) -> None:
    body = {"task_id": "out", "source_file": "../../etc/passwd", "operations": []}
    await client.ask("POST", "/data-processing/start", body)
    data = await completed(client, "out", "failed")
    assert "must lie in the data directory" in data["error_message"]
