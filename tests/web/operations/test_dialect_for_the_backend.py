"""The operations dialect as the backend's own modules read it: what they drop, lose or mix up."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import eventually
from worker_runtime import JobContext, task
from worker_runtime.progress_bridge import ProgressBridge


class TrainingRequest(msgspec.Struct):
    strategy_yaml: str
    symbols: list[str] | None = None
    symbol: Any = None
    mode: Any = None
    start_date: Any = None
    epochs: int = 150


@task(domain="training")
async def train(ctx: JobContext, request: TrainingRequest) -> dict[str, float]:
    for epoch in range(request.epochs):
        ctx.record_metric("val_loss", 1.0 / (epoch + 1))
    return {"val_loss": 0.1}


class DesignRequest(msgspec.Struct):
    brief: str
    symbol: str
    timeframe: str
    experiment_context: str | None = None


@task(domain="designs")
async def design(request: DesignRequest) -> dict[str, str]:
    return {"strategy_name": request.brief}


@task(domain="assessments")
async def assess(strategy_name: str) -> dict[str, str]:
    return {"verdict": strategy_name}


@task(domain="backtests")
async def diverging(ctx: JobContext) -> dict[str, Any]:
    """An engine from there, whose numbers need not be finite."""
    bridge = ProgressBridge(ctx)
    bridge._append_metric({"epoch": 1, "train_loss": 0.5, "val_loss": math.nan})
    bridge._append_metric({"epoch": 2, "train_loss": math.inf, "note": "diverged"})
    bridge._append_metric({"epoch": Fraction(3)})
    bridge._update_state(percentage=50.0, message="Epoch 5/10", epoch=5, phase="training")
    bridge._update_state(percentage=Fraction(301, 5), message="Epoch 6/10", epoch=6)  # type: ignore[arg-type]
    state = bridge.get_status()
    assert datetime.fromisoformat(state.pop("timestamp")).tzinfo == UTC
    return {"last": bridge.get_metrics(1)[0][0]["epoch"], "state": state}


@task(domain="indicators")
async def indicate(request: DesignRequest | None = None) -> dict[str, str]:
    return {} if request is None else {"brief": request.brief}


def report_epochs(ctx: JobContext) -> None:
    bridge = ProgressBridge(ctx)
    facts = {"items_processed": 350.0, "items_total": 700, "current_item": "AAPL_1d", "lr": 0.1}
    bridge._update_state(57.5, "Epoch 5/10", current_step=5, total_epochs=10, **facts)
    assert bridge.get_status()["lr"] == 0.1


@task(domain="epochs", run_in="thread")
def epochs(ctx: JobContext) -> None:
    report_epochs(ctx)


@task(domain="epochs-in-a-child", run_in="process")
def epochs_in_a_child(ctx: JobContext) -> None:
    report_epochs(ctx)


class EngineCancelled(Exception):
    pass


def run_engine(ctx: JobContext) -> None:
    bridge = ProgressBridge(ctx)
    bridge.set_progress(10.0, "loading")
    while not bridge.cancellation_token.is_cancelled_requested:
        time.sleep(0.005)
    assert bridge.cancellation_token.is_cancelled()
    raise EngineCancelled("stopped at bar 10/100")


@task(domain="data-load", run_in="thread")
def engine(ctx: JobContext) -> None:
    run_engine(ctx)


@task(domain="data-load-in-a-child", run_in="process")
def engine_in_a_child(ctx: JobContext) -> None:
    run_engine(ctx)


@task(domain="numbers")
async def reports_numbers_of_other_kinds(ctx: JobContext) -> str:
    """A number of NumPy's is a `float` to Python, and no number to an encoder."""
    ctx.report(Decimal("1.5"), Fraction(3), step="half")  # type: ignore[arg-type]
    ctx.record_metric("share", Fraction(1, 2))  # type: ignore[arg-type]
    return "done"


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[Worker]:
    tasks = (train, design, assess, diverging, indicate, reports_numbers_of_other_kinds)
    async with serving(*tasks, dialects=("operations",)) as serving_one:
        yield serving_one


async def ended(worker: Worker, operation_id: str, status: str = "completed") -> Any:
    async def poll() -> Any:
        path = f"/api/v1/operations/{operation_id}"
        data = (await worker.ask("GET", path)).document["data"]
        return data if data["status"] == status else None

    return await eventually(poll)


async def start(worker: Worker, domain: str, **body: Any) -> Any:
    async def accepted() -> Any:
        answer = await worker.ask("POST", f"/{domain}/start", body)
        return answer.document if answer.status == 200 else None

    return await eventually(accepted)


# Metrics


async def test_a_backend_that_asks_once_more_gets_all_metrics_that_are_left(
    worker: Worker,
) -> None:
    """It sends its cursor and no limit, and does not ask again once the operation has ended."""
    await start(worker, "training", task_id="t", strategy_yaml="y")
    await ended(worker, "t")
    path = "/api/v1/operations/t/metrics"
    rest = (await worker.ask("GET", f"{path}?cursor=0")).document["data"]
    assert (len(rest["metrics"]), rest["new_cursor"], rest["has_more"]) == (150, 150, False)
    first = (await worker.ask("GET", path)).document["data"]  # the guide's page of 100
    assert (len(first["metrics"]), first["cursor"], first["has_more"]) == (100, "100", True)
    page = (await worker.ask("GET", f"{path}?cursor=100&limit=20")).document["data"]
    assert (len(page["metrics"]), page["cursor"], page["has_more"]) == (20, "120", True)


async def test_numbers_of_a_ported_engine_that_are_not_finite_do_not_end_it(
    worker: Worker,
) -> None:
    await start(worker, "backtests", task_id="nan")
    assert (await ended(worker, "nan"))["result_summary"] == {
        "last": 2,
        "state": {"percentage": 60.2, "message": "Epoch 6/10", "epoch": 6},
    }
    metrics = (await worker.ask("GET", "/api/v1/operations/nan/metrics")).document["data"]
    named = [(m["name"], m["value"]) for m in metrics["metrics"]]
    assert named == [("epoch", 1.0), ("train_loss", 0.5), ("epoch", 2.0), ("epoch", 3.0)]


async def test_numbers_may_be_of_any_kind(worker: Worker) -> None:
    await start(worker, "numbers", task_id="n")
    progress = (await ended(worker, "n"))["progress"]
    assert (progress["steps_completed"], progress["steps_total"]) == (1, 3)
    native = (await worker.ask("GET", "/v1/jobs/n")).document["progress"]
    assert (native["done"], native["total"], native["percentage"]) == (1.5, 3.0, 50.0)


@pytest.mark.parametrize("domain", ["epochs", "epochs-in-a-child"])
async def test_a_bridges_steps_and_items_are_shown_beside_its_percentage(domain: str) -> None:
    async with serving(epochs, epochs_in_a_child, dialects=("operations",)) as one:
        await start(one, domain, task_id="e")
        progress = (await ended(one, "e"))["progress"]
    assert progress == {
        "percentage": 100.0,
        "current_step": "Epoch 5/10",
        "steps_completed": 5,
        "steps_total": 10,
        "items_processed": 350,
        "items_total": 700,
        "current_item": "AAPL_1d",
        "context": {},
        "estimated_remaining_seconds": None,
    }


@pytest.mark.parametrize("domain", ["data-load", "data-load-in-a-child"])
async def test_an_engine_that_ends_its_cancelled_work_with_an_error_of_its_own(
    domain: str,
) -> None:
    """`cancelled` stands, as it does over a result that comes too late."""
    tasks = (engine, engine_in_a_child)
    async with serving(*tasks, dialects=("operations",), cancel_grace_s=20) as one:
        await start(one, domain, task_id="e")

        async def loading() -> bool:
            document = (await one.ask("GET", "/api/v1/operations/e")).document
            return bool(document["data"]["progress"]["current_step"] == "loading")

        await eventually(loading, 10.0)
        await one.ask("DELETE", "/api/v1/operations/e/cancel?reason=enough")

        async def idle() -> bool:
            return bool((await one.ask("GET", "/health")).document["worker_status"] == "idle")

        await eventually(idle)
        data = await ended(one, "e", "cancelled")
    assert (data["error_message"], data["errors"]) == ("enough", [])
    assert (data["progress"]["current_step"], data["result_summary"]) == ("loading", None)


# Metadata


async def test_metadata_is_text_or_null_whatever_a_request_calls_so(worker: Worker) -> None:
    """The backend's model refuses the whole operation for a `symbol` that is a list."""
    odd = {"symbol": ["EURUSD"], "mode": 3, "start_date": "last spring"}
    await start(worker, "training", task_id="odd", strategy_yaml="y", **odd)
    data = await ended(worker, "odd")
    assert [data["metadata"][name] for name in odd] == [None, None, None]
    assert data["symbol"] is None
    assert data["metadata"]["parameters"]["symbol"] == ["EURUSD"]
    fine = {"symbol": "EURUSD", "mode": "full", "start_date": "2024-01-31"}
    await start(worker, "training", task_id="fine", strategy_yaml="y", **fine)
    metadata = (await ended(worker, "fine"))["metadata"]
    assert [metadata[name] for name in fine] == list(fine.values())


async def test_the_one_object_that_a_task_takes_may_be_optional(worker: Worker) -> None:
    body = {"brief": "b", "symbol": "EURUSD", "timeframe": "1h"}
    await start(worker, "indicators", task_id="given", **body)
    assert (await ended(worker, "given"))["result_summary"] == {"brief": "b"}
    wrong = await worker.ask("POST", "/indicators/start", {"brief": "b"})
    assert (wrong.status, "symbol" in wrong.document["detail"]) == (422, True)


# Agents


@pytest.mark.parametrize(
    ("domain", "body", "kind", "pattern"),
    [
        (
            "designs",
            {"brief": "b", "symbol": "EURUSD", "timeframe": "1h"},
            "agent_design",
            r"op_design_[0-9a-f]{12}",
        ),
        (
            "assessments",
            {"strategy_name": "s"},
            "agent_assessment",
            r"op_assessment_[0-9a-f]{12}",
        ),
    ],
)
async def test_an_agents_operation_is_a_child_of_its_task_id(
    worker: Worker, domain: str, body: dict[str, Any], kind: str, pattern: str
) -> None:
    """The task id is that of the research that asked: under the same id the two would be one."""
    started = await start(worker, domain, task_id="op_research_1", **body)
    assert re.fullmatch(pattern, started["operation_id"])
    data = await ended(worker, started["operation_id"])
    assert data["operation_type"] == kind
    assert data["parent_operation_id"] == "op_research_1"
    assert data["metadata"]["parameters"] == {
        **body,
        **({"experiment_context": None} if domain == "designs" else {}),
        "parent_task_id": "op_research_1",
    }
    assert (await worker.ask("GET", "/api/v1/operations/op_research_1")).status == 404
    again = await start(worker, domain, task_id="op_research_1", **body)
    assert again["operation_id"] != started["operation_id"]
    alone = await start(worker, domain, **body)
    assert re.fullmatch(pattern, alone["operation_id"])
    assert (await ended(worker, alone["operation_id"]))["parent_operation_id"] is None


async def test_an_agents_task_id_is_an_id(worker: Worker) -> None:
    body = {"task_id": "x" * 200, "strategy_name": "s"}
    answer = await worker.ask("POST", "/assessments/start", body)
    assert (answer.status, "task_id" in answer.document["detail"]) == (422, True)


# Resume


async def test_there_is_no_checkpoint_to_resume_from(worker: Worker) -> None:
    answer = await worker.ask("POST", "/training/resume", {"operation_id": "t"})
    assert answer.status == 404
    assert answer.document["detail"] == (
        "No checkpoint found for operation t: this worker keeps none; start it again"
    )
    for body in ({}, {"operation_id": None}, {"operation_id": 5}, {"operation_id": ""}):
        answer = await worker.ask("POST", "/training/resume", body)
        assert (answer.status, "operation_id" in answer.document["detail"]) == (422, True)
    asked = await worker.ask("OPTIONS", "/backtests/resume", headers={"Origin": "http://ui"})
    assert asked.status == 200
    assert (await worker.ask("POST", "/cooking/resume", {"operation_id": "t"})).status == 404


# Health and names


@pytest.mark.parametrize("path", ["/health", "/metrics"])
async def test_any_origin_may_ask_for_health_too(worker: Worker, path: str) -> None:
    origin = {"Origin": "http://ui.example"}
    asked = await worker.ask("OPTIONS", path, headers=origin)
    got = await worker.ask("GET", path, headers=origin)
    plain = await worker.ask("GET", path)
    assert (asked.status, got.status) == (200, 200)
    for answer in (asked, got):
        assert answer.headers["Access-Control-Allow-Origin"] == "http://ui.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert plain.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("first", ["sandbox", "operations"])
async def test_a_path_of_two_dialects_is_the_first_ones(first: str) -> None:
    dialects = (first, "operations" if first == "sandbox" else "sandbox")
    origin = {"Origin": "http://ui.example"}
    async with serving(train, dialects=dialects) as one:
        got = await one.ask("GET", "/health", headers=origin)
        asked = await one.ask("OPTIONS", "/health", headers=origin)
        refused = await one.ask("POST", "/health", {})
    expected = "*" if first == "sandbox" else "http://ui.example"
    assert [a.headers["Access-Control-Allow-Origin"] for a in (got, asked)] == [expected] * 2
    assert refused.status == 405
    assert ("status_code" in refused.document) == (first == "operations")


@pytest.mark.parametrize(
    ("worker_type", "service", "root"),
    [
        ("gpu_host", "gpu_host-worker", "Gpu_Host Worker Service"),
        ("agent_design", "agent_design-worker", "Agent_Design Worker Service"),
        ("data_processing", "data-processing-worker", "Data Processing Worker Service"),
    ],
)
async def test_services_are_called_as_the_backends_own_are(
    worker_type: str, service: str, root: str
) -> None:
    async with serving(train, dialects=("operations",), worker_type=worker_type) as one:
        assert (await one.ask("GET", "/health")).document["service"] == service
        document = (await one.ask("GET", "/")).document
    assert (document["service"], document["version"]) == (root, "1.0.0")


async def test_a_worker_without_a_name_is_named_for_what_it_does() -> None:
    options: dict[str, Any] = {"dialects": ("operations",), "backend_url": "http://127.0.0.1:9"}
    async with serving(train, **options) as one:
        worker_id = (await one.ask("GET", "/")).document["worker_id"]
    assert re.fullmatch(r"training-worker-[0-9a-f]{8}", worker_id)
    async with serving(train, worker_type="gpu_host", **options) as one:
        worker_id = (await one.ask("GET", "/")).document["worker_id"]
    assert re.fullmatch(r"gpu_host-worker-[0-9a-f]{8}", worker_id)
    async with serving(train, name="mine", **options) as one:
        assert (await one.ask("GET", "/")).document["worker_id"] == "mine"


# What ended before it began, and before this life


async def test_an_operation_cancelled_before_it_began_is_counted() -> None:
    async with serving(train, dialects=("operations",)) as one:
        one.runtime.pause("default")
        await start(one, "training", task_id="waits", strategy_yaml="y")
        answer = await one.ask("DELETE", "/api/v1/operations/waits/cancel?reason=changed%20mind")
        data = await ended(one, "waits", "cancelled")
        text = (await one.ask("GET", "/metrics")).text
    assert answer.document["data"]["status"] == "cancelled"
    assert (data["error_message"], data["started_at"]) == ("changed mind", None)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    labels = {"operation_type": "training", "status": "cancelled"}
    totals = [s.value for s in families["ktrdr_operations"].samples if s.labels == labels]
    durations = families["ktrdr_operation_duration_seconds"].samples
    counted = [s.value for s in durations if s.name.endswith("_count") and s.labels == labels]
    assert (totals, counted) == ([1.0], [0.0])


async def test_the_list_shows_what_ended_in_an_earlier_life(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "dialects": ("operations",),
        "store": f"sqlite:///{tmp_path / 'jobs.db'}",
    }
    async with serving(train, assess, **options) as first:
        for name in ("a", "b"):
            await start(first, "training", task_id=name, strategy_yaml="y", epochs=1)
            await ended(first, name)
        judged = await start(first, "assessments", task_id="parent", strategy_name="s")
        await ended(first, judged["operation_id"])
    async with serving(train, assess, **options) as second:
        await start(second, "training", task_id="c", strategy_yaml="y", epochs=1)
        await ended(second, "c")

        async def listed(query: str = "") -> Any:
            document = (await second.ask("GET", f"/api/v1/operations?{query}")).document
            ids = [entry["operation_id"] for entry in document["data"]["operations"]]
            return ids, document["total_count"], document["active_count"]

        assert await listed() == (["c", judged["operation_id"], "b", "a"], 4, 0)
        assert await listed("limit=1&offset=2") == (["b"], 4, 0)
        assert await listed("operation_type=training&status=completed") == (["c", "b", "a"], 3, 0)
        assert await listed("active_only=true") == ([], 0, 0)
        assert await listed("status=failed") == ([], 0, 0)
        shown = await ended(second, judged["operation_id"])
        assert shown["parent_operation_id"] == "parent"


async def test_metrics_are_readable_in_the_next_life(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "dialects": ("operations",),
        "store": f"sqlite:///{tmp_path / 'jobs.db'}",
    }
    async with serving(train, **options) as first:
        await start(first, "training", task_id="short", strategy_yaml="y", epochs=3)
        before = await ended(first, "short")
        await start(first, "training", task_id="long", strategy_yaml="y", epochs=1200)
        await ended(first, "long")
    async with serving(train, **options) as second:
        after = await ended(second, "short")
        path = "/api/v1/operations/long/metrics?cursor=0"
        page = (await second.ask("GET", path)).document["data"]
    assert len(before["metrics"]["epochs"]) == 3
    assert after["metrics"] == before["metrics"]
    assert (len(page["metrics"]), page["new_cursor"]) == (1000, 1200)
    assert page["metrics"][0]["value"] == 1.0 / 201
