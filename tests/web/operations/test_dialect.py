"""The operations dialect, field by field, as its guide and its backend know it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import eventually
from worker_runtime import ConfigurationError, JobContext, Retry, Runtime, Settings, task
from worker_runtime.progress_bridge import ProgressBridge

go_on = threading.Event()


class BacktestRequest(msgspec.Struct):
    symbol: str
    timeframe: str = "1d"
    bars: int = 4


@task(domain="backtests", run_in="thread")
def backtest(ctx: JobContext, request: BacktestRequest) -> dict[str, float]:
    """Report half of the bars, wait for the test, and finish unless cancelled."""
    for bar in range(request.bars):
        ctx.record_metric("equity", 100.0 + bar)
        ctx.report(bar + 1, request.bars, step=f"Bar {bar + 1}/{request.bars}")
        if bar == request.bars // 2 - 1:
            assert go_on.wait(10)
        ctx.raise_if_cancelled()
    return {"profit": 1.5}


@task(domain="data-processing")
async def process(source_file: str, operations: list[str], estimated_rows: int = 0) -> Any:
    if source_file == "missing.csv":
        raise FileNotFoundError(f"no file {source_file}")
    return [] if source_file == "empty.csv" else {"rows_processed": estimated_rows}


@task(domain="training", run_in="thread")
def stubborn_training(ctx: JobContext, strategy_yaml: str) -> str:
    """Ignore the cancel, and come back with a result all the same."""
    ctx.report(1, 2, step="epoch 1")
    assert go_on.wait(10)
    return strategy_yaml


@task
async def unrelated() -> str:
    return "not an operation"


TASKS = (backtest, process, stubborn_training, unrelated)
BARS: dict[str, Any] = {"symbol": "EURUSD", "timeframe": "1h", "bars": 4}


@pytest.fixture(autouse=True)
def _waiting() -> Iterator[None]:
    go_on.clear()
    yield
    go_on.set()


def operations(**settings: Any) -> Any:
    defaults: dict[str, Any] = {"dialects": ("operations",), "name": "backtest-1"}
    return serving(*TASKS, **{**defaults, "stop_within_s": 0.2, "cancel_grace_s": 0.2, **settings})


async def start(worker: Worker, domain: str = "backtests", **body: Any) -> Any:
    answer = await worker.ask("POST", f"/{domain}/start", body)
    assert answer.status == 200, answer.text
    return answer.document


async def show(worker: Worker, operation_id: str) -> Any:
    """The operation as the backend unwraps it: `data`, refused where it could not be used."""
    answer = await worker.ask("GET", f"/api/v1/operations/{operation_id}")
    assert answer.status == 200, answer.text
    data = answer.document["data"]
    assert data["status"] in ("pending", "running", "completed", "failed", "cancelled")
    assert 0.0 <= data["progress"]["percentage"] <= 100.0
    assert data["result_summary"] is None or data["result_summary"].keys()
    for name in ("created_at", "started_at", "completed_at"):
        if data[name] is not None:
            assert datetime.fromisoformat(data[name].replace("Z", "+00:00")).tzinfo == UTC
    return data


async def reaches(worker: Worker, operation_id: str, status: str) -> Any:
    async def poll() -> Any:
        data = await show(worker, operation_id)
        return data if data["status"] == status else None

    return await eventually(poll)


async def half_done(worker: Worker, operation_id: str) -> Any:
    async def poll() -> Any:
        data = await show(worker, operation_id)
        return data if data["progress"]["percentage"] == 50.0 else None

    return await eventually(poll)


async def idle(worker: Worker) -> Any:
    async def poll() -> Any:
        health = (await worker.ask("GET", "/health")).document
        return health if health["worker_status"] == "idle" else None

    return await eventually(poll)


# One operation's life


async def test_an_operation_from_start_to_result() -> None:
    async with operations() as worker:
        started = await start(worker, task_id="op-1", **BARS)
        assert started == {
            "success": True,
            "operation_id": "op-1",
            "status": "started",
            "worker_id": "backtest-1",
        }
        early = await show(worker, "op-1")
        assert early["status"] in ("pending", "running")
        running = await half_done(worker, "op-1")
        go_on.set()
        done = await reaches(worker, "op-1", "completed")
    assert running["progress"] == {
        "percentage": 50.0,
        "current_step": "Bar 2/4",
        "steps_completed": 2,
        "steps_total": 4,
        "items_processed": 2,
        "items_total": 4,
        "current_item": None,
        "context": {},
        "estimated_remaining_seconds": running["progress"]["estimated_remaining_seconds"],
    }
    assert running["progress"]["estimated_remaining_seconds"] >= 0
    assert (running["completed_at"], running["result_summary"]) == (None, None)
    assert running["updated_at"] >= running["started_at"] >= running["created_at"]
    assert running["metadata"] == {
        "symbol": "EURUSD",
        "timeframe": "1h",
        "mode": None,
        "start_date": None,
        "end_date": None,
        "parameters": BARS,
        "worker_id": "backtest-1",
    }
    assert done["operation_type"] == "backtesting"
    assert done["progress"]["percentage"] == 100.0
    assert done["result_summary"] == {"profit": 1.5}
    assert (done["error_message"], done["errors"], done["warnings"]) == (None, [], [])
    assert (done["parent_operation_id"], done["is_backend_local"]) == (None, False)
    assert [m["value"] for m in done["metrics"]["bars"]] == [100.0, 101.0, 102.0, 103.0]
    assert done["completed_at"] >= done["started_at"]


async def test_the_record_exists_before_the_answer() -> None:
    async with operations() as worker:
        await start(worker, task_id="at-once", **BARS)
        assert (await show(worker, "at-once"))["progress"] is not None


@pytest.mark.parametrize(
    ("domain", "body", "pattern"),
    [
        ("data-processing", {"source_file": "a", "operations": []}, r"worker_dp_[0-9a-f]{12}"),
        ("backtests", BARS, r"worker_backtests_[0-9a-f]{12}"),
    ],
)
async def test_an_id_is_made_where_none_is_given(
    domain: str, body: dict[str, Any], pattern: str
) -> None:
    async with operations() as worker:
        started = await start(worker, domain, **body)
    assert re.fullmatch(pattern, started["operation_id"])


async def test_a_failure_says_why() -> None:
    async with operations() as worker:
        body = {"source_file": "missing.csv", "operations": ["clean"]}
        await start(worker, "data-processing", task_id="lost", **body)
        failed = await reaches(worker, "lost", "failed")
        await idle(worker)
    assert failed["error_message"] == "no file missing.csv"
    assert failed["errors"] == ["no file missing.csv"]
    assert failed["result_summary"] is None
    assert failed["completed_at"] is not None


async def test_a_completed_operation_always_has_a_summary() -> None:
    async with operations() as worker:
        body = {"source_file": "empty.csv", "operations": []}
        await start(worker, "data-processing", task_id="empty", **body)
        done = await reaches(worker, "empty", "completed")
    assert done["result_summary"] == {"result": []}


async def test_fields_that_a_task_does_not_have_are_ignored() -> None:
    async with operations() as worker:
        body = {"source_file": "f", "operations": [], "estimated_rows": 7, "commission": 0.001}
        await start(worker, "data-processing", task_id="more", **body)
        assert (await reaches(worker, "more", "completed"))["result_summary"] == {
            "rows_processed": 7
        }


# One at a time


async def test_a_busy_worker_refuses_at_once_and_queues_nothing() -> None:
    async with operations() as worker:
        await start(worker, task_id="first", **BARS)
        other = {"source_file": "a", "operations": []}
        busy = await worker.ask("POST", "/data-processing/start", {"task_id": "second", **other})
        lost = await worker.ask("GET", "/api/v1/operations/second")
        health = (await worker.ask("GET", "/health")).document
        go_on.set()
        await reaches(worker, "first", "completed")
        await idle(worker)
        await start(worker, "data-processing", task_id="second", **other)
    assert busy.status == 503
    assert int(busy.headers["Retry-After"]) >= 1
    message = busy.document.pop("message")
    assert busy.document == {
        "error": "Worker busy",
        "current_operation": "first",
        "status_code": 503,
        "detail": {
            "error": "Worker busy",
            "message": message,
            "current_operation": "first",
            "active_operations_count": 1,
        },
    }
    assert lost.status == 404
    assert (health["worker_status"], health["current_operation"]) == ("busy", "first")


async def test_the_same_start_again_is_the_same_operation() -> None:
    async with operations() as worker:
        first = await start(worker, task_id="once", **BARS)
        assert await start(worker, task_id="once", **BARS) == first
        body = {"task_id": "once", **BARS, "symbol": "GBPUSD"}
        conflict = await worker.ask("POST", "/backtests/start", body)
        go_on.set()
        await reaches(worker, "once", "completed")
        await start(worker, task_id="once", **BARS)
        assert (await show(worker, "once"))["status"] == "completed"
        listed = (await worker.ask("GET", "/api/v1/operations")).document
    assert conflict.status == 409
    assert "another payload" in conflict.document["detail"]
    assert listed["total_count"] == 1


async def test_an_operation_of_another_door_counts_too() -> None:
    async with operations() as worker:
        body = {"task": "backtest", "args": [BARS], "id": "native"}
        assert (await worker.ask("POST", "/v1/jobs", body)).status == 202
        health = (await worker.ask("GET", "/health")).document
        assert (health["worker_status"], health["current_operation"]) == ("busy", "native")
        assert (await worker.ask("POST", "/backtests/start", BARS)).status == 503
        assert (await show(worker, "native"))["operation_type"] == "backtesting"


# Cancel


async def test_cancelled_at_once_and_for_good() -> None:
    async with operations(cancel_grace_s=20) as worker:
        await start(worker, "training", task_id="stubborn", strategy_yaml="y")
        await reaches(worker, "stubborn", "running")
        path = "/api/v1/operations/stubborn/cancel?reason=no%20longer%20needed"
        answer = (await worker.ask("DELETE", path)).document
        cancelled = await show(worker, "stubborn")
        twice = (await worker.ask("DELETE", path)).document
        health = (await worker.ask("GET", "/health")).document
        counts = (await worker.ask("GET", "/api/v1/operations")).document
        go_on.set()
        await idle(worker)
        after = await show(worker, "stubborn")
    assert (answer["success"], answer["message"]) == (True, "Operation cancelled successfully")
    cancelled_at = answer["data"].pop("cancelled_at")
    assert answer["data"] == {
        "success": True,
        "operation_id": "stubborn",
        "status": "cancelled",
        "cancellation_reason": "no longer needed",
        "task_cancelled": True,
        "remote_cancelled": False,
        "children_cancelled": [],
    }
    assert (cancelled["status"], cancelled["completed_at"]) == ("cancelled", cancelled_at)
    assert cancelled["error_message"] == "no longer needed"
    assert twice["data"]["success"] is False
    assert "already finished (status: cancelled)" in twice["data"]["error"]
    assert health["worker_status"] == "busy"
    assert counts["active_count"] == 0
    assert (after["status"], after["result_summary"]) == ("cancelled", None)
    assert after["error_message"] == "no longer needed"


async def test_a_cooperative_operation_stops_at_its_next_look() -> None:
    async with operations(cancel_grace_s=20) as worker:
        await start(worker, task_id="soft", **BARS)
        await half_done(worker, "soft")
        await worker.ask("DELETE", "/api/v1/operations/soft/cancel")
        go_on.set()
        await idle(worker)
        data = await show(worker, "soft")
    assert (data["status"], data["error_message"]) == ("cancelled", "Operation cancelled by user")
    assert data["progress"]["percentage"] == 50.0


async def test_cancelling_what_is_unknown_or_over() -> None:
    async with operations() as worker:
        await start(worker, "data-processing", task_id="over", source_file="f", operations=[])
        await reaches(worker, "over", "completed")
        over = await worker.ask("DELETE", "/api/v1/operations/over/cancel")
        unknown = await worker.ask("DELETE", "/api/v1/operations/nobody/cancel")
        assert (await show(worker, "over"))["status"] == "completed"
    assert over.status == 200
    assert over.document["data"]["success"] is False
    assert over.document["data"]["error"] == (
        "Operation over is already finished (status: completed)"
    )
    assert unknown.status == 404
    assert unknown.document["detail"] == "Operation not found: nobody"


# Metrics with a cursor


async def test_metrics_are_read_from_a_cursor_in_both_forms() -> None:
    async with operations() as worker:
        await start(worker, task_id="m", **BARS)
        await half_done(worker, "m")
        path = "/api/v1/operations/m/metrics"
        first = (await worker.ask("GET", path)).document["data"]
        go_on.set()
        await reaches(worker, "m", "completed")
        rest = (await worker.ask("GET", f"{path}?cursor={first['new_cursor']}")).document["data"]
        page = (await worker.ask("GET", f"{path}?cursor=&limit=3")).document["data"]
        after_page = await worker.ask("GET", f"{path}?cursor={page['cursor']}&limit=3")
        beyond = (await worker.ask("GET", f"{path}?cursor=99")).document["data"]
    assert (first["operation_id"], first["operation_type"]) == ("m", "backtesting")
    assert [(m["name"], m["value"]) for m in first["metrics"]] == [
        ("equity", 100.0),
        ("equity", 101.0),
    ]
    assert all(m["timestamp"].endswith("Z") for m in first["metrics"])
    assert (first["new_cursor"], first["cursor"], first["has_more"]) == (2, "2", False)
    assert [m["value"] for m in rest["metrics"]] == [102.0, 103.0]
    assert (page["new_cursor"], page["has_more"], len(page["metrics"])) == (3, True, 3)
    assert [m["value"] for m in after_page.document["data"]["metrics"]] == [103.0]
    assert (beyond["metrics"], beyond["new_cursor"], beyond["has_more"]) == ([], 4, False)


@pytest.mark.parametrize("query", ["cursor=-1", "cursor=abc", "limit=0", "limit=1001", "limit=x"])
async def test_a_cursor_or_limit_out_of_range(query: str) -> None:
    async with operations() as worker:
        await start(worker, "data-processing", task_id="m", source_file="f", operations=[])
        answer = await worker.ask("GET", f"/api/v1/operations/m/metrics?{query}")
    assert answer.status == 422
    assert query.partition("=")[0] in answer.document["detail"]


# The list


async def test_the_list_has_filters_pages_and_counts() -> None:
    async with operations() as worker:
        for name in ("a", "b", "missing"):
            body = {"source_file": f"{name}.csv", "operations": []}
            await start(worker, "data-processing", task_id=name, **body)
            await idle(worker)
        await start(worker, task_id="bars", **BARS)
        assert (await worker.ask("POST", "/v1/jobs", {"task": "unrelated"})).status == 202

        async def ids(query: str) -> list[str]:
            document = (await worker.ask("GET", f"/api/v1/operations?{query}")).document
            return [entry["operation_id"] for entry in document["data"]["operations"]]

        everything = (await worker.ask("GET", "/api/v1/operations")).document
        assert await ids("status=completed") == ["b", "a"]
        assert await ids("status=failed") == ["missing"]
        assert await ids("operation_type=backtesting") == ["bars"]
        assert await ids("operation_type=data_processing&limit=1&offset=1") == ["b"]
        assert await ids("active_only=true") == ["bars"]
        assert await ids("offset=100") == []
        bad = [
            (await worker.ask("GET", f"/api/v1/operations?{query}")).status
            for query in ("status=done", "operation_type=cooking", "limit=0", "offset=-1")
        ]
        assert (await worker.ask("GET", "/api/v1/operations?active_only=perhaps")).status == 422
    assert bad == [422] * 4
    data = everything["data"]
    assert [entry["operation_id"] for entry in data["operations"]] == ["bars", "missing", "b", "a"]
    assert (data["total"], data["limit"], data["offset"]) == (4, 100, 0)
    assert (everything["success"], everything["total_count"], everything["active_count"]) == (
        True,
        4,
        1,
    )
    entry = data["operations"][0]
    assert entry["symbol"] == "EURUSD"
    assert entry["duration_seconds"] >= 0
    assert {"status", "created_at", "progress_percentage", "current_step"} <= entry.keys()


# Bad input


@pytest.mark.parametrize(
    ("domain", "body", "named"),
    [
        ("backtests", {"timeframe": "1d"}, "symbol"),
        ("backtests", {"symbol": 5}, "symbol"),
        ("data-processing", {"operations": []}, "source_file"),
        ("data-processing", {"source_file": "f", "operations": "clean"}, "operations"),
        ("backtests", {**BARS, "task_id": 7}, "task_id"),
        ("backtests", {**BARS, "task_id": "a/b"}, "a/b"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    domain: str, body: dict[str, Any], named: str
) -> None:
    async with operations() as worker:
        answer = await worker.ask("POST", f"/{domain}/start", body)
        assert not list(worker.runtime.doorway.jobs_here())
        await start(worker, task_id="still-idle", **BARS)
    assert answer.status == 422
    assert named in answer.document["detail"]
    assert answer.document["status_code"] == 422


async def test_unknown_domains_operations_and_bodies() -> None:
    async with operations() as worker:
        unknown = await worker.ask("GET", "/api/v1/operations/nobody")
        metrics = await worker.ask("GET", "/api/v1/operations/nobody/metrics")
        domain = await worker.ask("POST", "/cooking/start", {})
        headers = {"Content-Type": "application/json"}
        broken = await worker.ask("POST", "/backtests/start", data=b"{", headers=headers)
        array = await worker.ask("POST", "/backtests/start", [])
        refresh = await worker.ask("GET", "/api/v1/operations/nobody?force_refresh=maybe")
        plain = await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "unrelated", "id": "plain"})
        not_one = await worker.ask("GET", "/api/v1/operations/plain")
    assert unknown.document["detail"] == "Operation not found: nobody"
    assert [a.status for a in (unknown, metrics, domain, not_one)] == [404] * 4
    assert [a.status for a in (broken, array, refresh)] == [400, 422, 422]
    assert plain.status == 200


def test_domains_must_be_paths_and_different() -> None:
    @task(domain="a/b")
    async def slash() -> None: ...

    @task(domain="twice")
    async def one() -> None: ...

    @task(domain="twice")
    async def two() -> None: ...

    from worker_runtime.web.operations.dialect import Operations

    settings = Settings.from_environment({})
    for tasks, named in (([slash], "a/b"), ([one, two], "twice")):
        with pytest.raises(ConfigurationError, match=named):
            Operations(Runtime(tasks, settings=settings), settings)


# Health, root, metrics, cross-origin


async def test_health_and_root() -> None:
    async with operations() as worker:
        health = (await worker.ask("GET", "/health")).document
        root = (await worker.ask("GET", "/")).document
    assert datetime.fromisoformat(health["timestamp"]).utcoffset() is not None
    assert {k: v for k, v in health.items() if k not in ("timestamp", "uptime")} == {
        "healthy": True,
        "service": "backtesting-worker",
        "status": "operational",
        "worker_status": "idle",
        "current_operation": None,
    }
    assert root["service"] == "Backtesting Worker Service"
    assert (root["status"], root["worker_id"]) == ("running", "backtest-1")
    assert root["version"]


async def test_prometheus_names() -> None:
    async with operations() as worker:
        body = {"source_file": "missing.csv", "operations": []}
        await start(worker, "data-processing", task_id="f", **body)
        await idle(worker)
        await start(worker, task_id="on", **BARS)
        text = (await worker.ask("GET", "/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["ktrdr_operations_active"].samples[0].value == 1.0
    totals = {tuple(s.labels.values()): s.value for s in families["ktrdr_operations"].samples}
    assert totals[("data_processing", "failed")] == 1.0
    assert totals[("backtesting", "completed")] == 0.0
    durations = families["ktrdr_operation_duration_seconds"]
    labels = {"operation_type": "data_processing", "status": "failed"}
    bounds = [
        s.labels["le"]
        for s in durations.samples
        if s.name.endswith("_bucket") and labels.items() <= s.labels.items()
    ]
    assert bounds[:3] == ["1.0", "5.0", "10.0"]
    assert bounds[-2:] == ["3600.0", "+Inf"]
    assert {"ktrdr_workers_registered_total", "ktrdr_workers_available"} <= families.keys()


async def test_any_origin_may_ask() -> None:
    origin = {"Origin": "http://ui.example"}
    asked = {**origin, "Access-Control-Request-Headers": "x-custom"}
    async with operations() as worker:
        answer = await worker.ask("GET", "/api/v1/operations", headers=origin)
        refused = await worker.ask("GET", "/api/v1/operations/nobody", headers=origin)
        preflight = await worker.ask("OPTIONS", "/backtests/start", headers=asked)
        plain = await worker.ask("GET", "/api/v1/operations")
    for each in (answer, refused, preflight):
        assert each.headers["Access-Control-Allow-Origin"] == "http://ui.example"
        assert each.headers["Access-Control-Allow-Credentials"] == "true"
    assert preflight.status == 200
    assert preflight.headers["Access-Control-Allow-Headers"] == "x-custom"
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    assert plain.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_shutdown_notice_is_acknowledged() -> None:
    async with operations() as worker:
        body = {"message": "Backend shutting down"}
        answer = await worker.ask("POST", "/backend-shutdown", body)
    assert (answer.status, answer.document) == (200, {"acknowledged": True})


# All dialects at once


async def test_all_dialects_share_one_port() -> None:
    async with serving(*TASKS, name="all", stop_within_s=0.2, cancel_grace_s=0.2) as worker:
        health = (await worker.ask("GET", "/health")).document
        assert health["status"] == "ok"
        for name in ("currentLoad", "active_tasks", "cpu_percent", "worker_status"):
            assert name in health
        body = {"payload": {"function": "unrelated"}, "task_id": "v"}
        assert (await worker.ask("POST", "/task/submit", body)).status == 200
        assert (await worker.ask("POST", "/v1/jobs", {"task": "unrelated"})).status == 202
        await start(worker, task_id="o", **BARS)
        assert (await worker.ask("GET", "/task/o")).document["status"] == "running"
        go_on.set()
        await reaches(worker, "o", "completed")
        text = (await worker.ask("GET", "/metrics")).text
    for name in ("worker_requests_total", "tasks_completed_total", "ktrdr_operations_active"):
        assert name in text


# The bridge of the backend's own workers


class BarsBridge(ProgressBridge):
    def update_progress(self, bar: int, bars: int) -> None:
        self.set_progress(percentage=100 * bar / bars, current_step=f"Bar {bar}/{bars}")


@task(domain="backtests", run_in="thread", retry=Retry(max_attempts=1))
def bridged(ctx: JobContext, bars: int) -> dict[str, Any]:
    bridge = BarsBridge(ctx)
    token = bridge.cancellation_token
    for bar in range(1, bars + 1):
        bridge.update_progress(bar, bars)
        bridge._append_metric({"bar": bar, "equity": 100.0 + bar})
        if token.is_cancelled():
            break
        if bar == bars // 2:
            assert go_on.wait(10)
    _, cursor = bridge.get_metrics(0)
    return {**bridge.get_progress(), "metrics": cursor, "state": bridge.get_status()["message"]}


async def test_a_ported_progress_bridge_reports_and_sees_the_cancel() -> None:
    async with serving(bridged, dialects=("operations",), cancel_grace_s=20) as worker:
        await start(worker, task_id="bridge", bars=4)
        half = await half_done(worker, "bridge")
        assert half["progress"]["current_step"] == "Bar 2/4"
        go_on.set()
        done = await reaches(worker, "bridge", "completed")
        path = "/api/v1/operations/bridge/metrics"
        metrics = (await worker.ask("GET", path)).document["data"]["metrics"]
        go_on.clear()
        await start(worker, task_id="stopped", bars=4)
        await half_done(worker, "stopped")
        await worker.ask("DELETE", "/api/v1/operations/stopped/cancel")
        go_on.set()
        await idle(worker)
        assert (await show(worker, "stopped"))["progress"]["current_step"] == "Bar 3/4"
    assert done["result_summary"] == {
        "percentage": 100.0,
        "current_step": "Bar 4/4",
        "metrics": 4,
        "state": "Bar 4/4",
    }
    assert [m["value"] for m in metrics if m["name"] == "equity"] == [101.0, 102.0, 103.0, 104.0]
