"""The paths that belong to no dialect, or to all of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fleet_worker import serving
from worker_runtime import task


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@pytest.mark.parametrize(
    ("dialects", "word"),
    [
        (("sandbox", "vera", "operations"), "ok"),
        (("vera", "sandbox"), "healthy"),
        (("operations",), "operational"),
        ((), "ok"),
    ],
)
async def test_health_is_the_union_with_the_word_of_the_first_dialect(
    dialects: tuple[Any, ...], word: str
) -> None:
    async with serving(add, dialects=dialects) as worker:
        answer = await worker.ask("GET", "/health")
    assert (answer.status, answer.document["status"]) == (200, word)
    fields = {"sandbox": "currentLoad", "vera": "active_tasks", "operations": "worker_status"}
    for dialect, field in fields.items():
        assert (field in answer.document) is (dialect in dialects)


async def test_readiness_ends_when_the_runtime_takes_nothing_more() -> None:
    async with serving(add) as worker:
        assert (await worker.ask("GET", "/livez")).status == 200
        assert (await worker.ask("GET", "/readyz")).status == 200
        worker.runtime.quiet()
        assert (await worker.ask("GET", "/livez")).status == 200
        assert (await worker.ask("GET", "/readyz")).status == 503


async def test_metrics_are_text_unless_json_is_asked_for_or_first() -> None:
    async with serving(add, dialects=("sandbox", "vera")) as worker:
        plain = await worker.ask("GET", "/metrics")
        assert "worker_runtime_jobs_accepted_total" in plain.text
        asked = await worker.ask("GET", "/metrics", headers={"Accept": "application/json"})
        assert "tasks_completed" in asked.document
    async with serving(add, dialects=("vera", "sandbox")) as worker:
        assert "tasks_completed" in (await worker.ask("GET", "/metrics")).document
        text = (await worker.ask("GET", "/metrics/prometheus")).text
        assert "worker_requests_total" in text
    async with serving(add, dialects=("sandbox",)) as worker:  # nobody here has a JSON form
        answer = await worker.ask("GET", "/metrics", headers={"Accept": "application/json"})
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_a_dialect_that_is_not_enabled_is_not_served() -> None:
    async with serving(add, dialects=("vera",)) as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
        assert (answer.status, answer.document["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nope", "/%00", "/" + "a" * 3000, "/ü", "//task"])
async def test_what_is_not_there_is_a_problem_document(path: str) -> None:
    async with serving(add, dialects=("sandbox",)) as worker:
        answer = await worker.ask("GET", path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answer.text) < 1000


async def test_a_wrong_method_names_those_allowed_and_options_asks_for_them() -> None:
    async with serving(add) as worker:
        answer = await worker.ask("PATCH", "/v1/jobs")
        assert (answer.status, answer.document["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "DELETE, GET, HEAD, POST"
        asked = await worker.ask("OPTIONS", "/v1/jobs/x")
        assert (asked.status, asked.headers["Allow"]) == (204, "DELETE, GET, HEAD, OPTIONS")
        head = await worker.ask("HEAD", "/v1/queues")
        assert (head.status, head.text) == (200, "")
        odd = await worker.ask("PROPFIND", "/v1/jobs")
        assert odd.status == 405
