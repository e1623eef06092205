"""The vera dialect, field by field, as its guide and its orchestrator's two clients know it."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet_worker import Worker, serving
from tests.support.helpers import eventually
from worker_runtime import JobContext, task

order: list[str] = []
gate = asyncio.Event()
tries: Counter[str] = Counter()


@task
async def analyze_data(*numbers: int, mode: str = "slow") -> dict[str, Any]:
    return {"sum": sum(numbers), "mode": mode}


@task
async def fail(text: str) -> None:
    raise ValueError(text)


@task
async def hold(name: str = "held") -> str:
    """Wait until the test opens the gate, and say in which order that was."""
    await gate.wait()
    order.append(name)
    return name


@task
async def tool_call(tool_name: str, tool_input: dict[str, Any]) -> str:
    return f"{tool_name}({tool_input['x']})"


@task
async def code_execution(code: str, language: str = "python") -> str:
    return f"{language}: {code}"


@task
async def focus(ctx: JobContext, goal: str, context: dict[str, Any]) -> dict[str, Any]:
    return {"goal": goal, "context": context}


@task
async def unencodable() -> Any:
    return object()


@task
async def at(moment: datetime, share: float = 1.0) -> str:
    return f"{moment.isoformat()} {share}"


@task
async def flaky(name: str, fails: int) -> int:
    tries[name] += 1
    if tries[name] <= fails:
        raise RuntimeError(f"try {tries[name]}")
    return tries[name]


TASKS = (analyze_data, fail, hold, tool_call, code_execution, focus, unencodable, at, flaky)


@pytest.fixture(autouse=True)
def _closed_gate() -> None:
    global gate
    gate = asyncio.Event()
    order.clear()
    tries.clear()


def vera(**settings: Any) -> Any:
    return serving(*TASKS, **{"dialects": ("vera",), "name": "vera-1", **settings})


async def submit(worker: Worker, function: str, *args: Any, **fields: Any) -> Any:
    payload = {"function": function, "args": list(args), "kwargs": fields.pop("kwargs", {})}
    answer = await worker.ask("POST", "/task/submit", {"payload": payload, **fields})
    assert answer.status == 200, answer.text
    return answer.document


async def ended(worker: Worker, task_id: str) -> Any:
    """Poll, as the guide's client does."""

    async def poll() -> Any:
        document = (await worker.ask("GET", f"/task/{task_id}")).document
        return document if document["status"] in ("completed", "failed") else None

    return await eventually(poll)


# POST /task/submit


async def test_the_guides_example_runs_to_its_result() -> None:
    payload = {"function": "analyze_data", "args": [1, 2, 3], "kwargs": {"mode": "fast"}}
    async with vera() as worker:
        body = {"task_id": "task_123", "payload": payload, "priority": "normal"}
        answer = await worker.ask("POST", "/task/submit", body)
        assert answer.status == 200
        assert answer.document == {"status": "queued", "task_id": "task_123", "position": 1}
        record = await ended(worker, "task_123")
    times = [record.pop(name) for name in ("queued_at", "started_at", "completed_at")]
    assert record == {
        "task_id": "task_123",
        "payload": payload,
        "status": "completed",
        "result": {"sum": 6, "mode": "fast"},
        "error": None,
    }
    assert all(text.endswith("Z") for text in times)
    assert sorted(times, key=datetime.fromisoformat) == times


async def test_an_id_is_made_where_none_is_given() -> None:
    async with vera() as worker:
        first, second = await submit(worker, "analyze_data"), await submit(worker, "analyze_data")
        null = await submit(worker, "analyze_data", task_id=None)
        empty = await submit(worker, "analyze_data", task_id="")
    ids = {answer["task_id"] for answer in (first, second, null, empty)}
    assert len(ids) == 4
    assert all(str(uuid.UUID(task_id)) == task_id for task_id in ids)


async def test_a_failure_is_told_in_its_own_words() -> None:
    async with vera() as worker:
        task_id = (await submit(worker, "fail", "no such row"))["task_id"]
        record = await ended(worker, task_id)
        lost = (await submit(worker, "unencodable"))["task_id"]
        unencodable_record = await ended(worker, lost)
    assert (record["status"], record["result"], record["error"]) == ("failed", None, "no such row")
    assert unencodable_record["status"] == "failed"
    assert "cannot be encoded" in unencodable_record["error"]


async def test_priorities_order_the_line_and_equals_stay_in_theirs() -> None:
    async with vera(concurrency=1) as worker:
        await submit(worker, "hold", "running")
        words = ("low", "normal", "nonsense", "high", "critical", "high")
        positions = [
            (await submit(worker, "hold", f"{n} {word}", priority=word))["position"]
            for n, word in enumerate(words)
        ]
        ids = [
            (await worker.ask("GET", f"/task/{job.id}")).document["status"]
            for job in worker.runtime.doorway.jobs_here()
        ]
        assert ids == ["running"] + ["queued"] * 6
        waiting = await worker.ask("GET", "/health")
        assert (waiting.document["active_tasks"], waiting.document["queue_size"]) == (1, 6)
        gate.set()
        await worker.runtime.join()
    assert positions == [1, 2, 3, 4, 5, 6]
    assert order == [
        "running", "4 critical", "3 high", "5 high", "1 normal", "2 nonsense", "0 low",
    ]  # fmt: skip


async def test_the_same_id_is_the_same_task_and_never_another() -> None:
    async with vera(concurrency=1) as worker:
        await submit(worker, "hold", "first", task_id="one")
        again = await submit(worker, "hold", "first", task_id="one")
        assert again == {"status": "running", "task_id": "one", "position": 0}
        payload = {"function": "hold", "args": ["other"]}
        other = await worker.ask("POST", "/task/submit", {"task_id": "one", "payload": payload})
        assert other.status == 409
        assert "another payload" in other.document["detail"]
        gate.set()
        await ended(worker, "one")
        late = await submit(worker, "hold", "first", task_id="one")
        assert late == {"status": "completed", "task_id": "one", "position": 0}
    assert order == ["first"]


AS_SENT: list[dict[str, Any]] = [
    {"function": "analyze_data"},
    {"function": "analyze_data", "args": None, "kwargs": None},
    {"function": "analyze_data", "args": [1], "kwargs": {}, "caller": {"ids": [1, None, "é"]}},
    {"kwargs": {"mode": "m"}, "function": "analyze_data", "args": [1, 2]},
    {"function": "at", "args": ["2025-01-15T10:00:00.5Z"], "kwargs": {"share": 3}},
]


@pytest.mark.parametrize("payload", AS_SENT)
async def test_the_record_shows_the_payload_as_it_was_sent(
    payload: dict[str, Any], tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    async with vera(store=store) as worker:
        answer = await worker.ask("POST", "/task/submit", {"task_id": "one", "payload": payload})
        assert answer.status == 200, answer.text
        record = await ended(worker, "one")
    assert (record["payload"], record["status"]) == (payload, "completed")
    async with vera(store=store) as worker:  # another life
        assert await ended(worker, "one") == record
        again = await worker.ask("POST", "/task/submit", {"task_id": "one", "payload": payload})
        assert again.document == {"status": "completed", "task_id": "one", "position": 0}


FIELD_ERRORS: list[tuple[Any, list[tuple[str, list[str]]]]] = [
    ({}, [("missing", ["body", "payload"])]),
    ({"payload": None}, [("dict_type", ["body", "payload"])]),
    ({"payload": [1]}, [("dict_type", ["body", "payload"])]),
    ({"payload": {}, "priority": 1}, [("string_type", ["body", "priority"])]),
    ({"payload": {}, "priority": None}, [("string_type", ["body", "priority"])]),
    (
        {"task_id": 5, "priority": []},
        [
            ("string_type", ["body", "task_id"]),
            ("string_type", ["body", "priority"]),
            ("missing", ["body", "payload"]),
        ],
    ),
    ({"payload": {}}, [("missing", ["body", "payload", "function"])]),
    ({"payload": {"function": 1}}, [("string_type", ["body", "payload", "function"])]),
    (
        {"payload": {"function": "hold", "args": {}, "kwargs": []}},
        [("list_type", ["body", "payload", "args"]), ("dict_type", ["body", "payload", "kwargs"])],
    ),
    (
        {"payload": {"function": "fail", "args": [1]}},
        [("value_error", ["body", "payload", "args"])],
    ),
    (
        {"payload": {"function": "fail", "kwargs": {"nope": 1}}},
        [("value_error", ["body", "payload", "kwargs"])],
    ),
    (
        {"payload": {"function": "hold"}, "task_id": "a b"},
        [("value_error", ["body", "task_id"])],
    ),
    ([1], [("model_attributes_type", ["body"])]),
]


@pytest.mark.parametrize(("body", "expected"), FIELD_ERRORS)
async def test_wrong_fields_are_named(body: Any, expected: list[tuple[str, list[str]]]) -> None:
    async with vera() as worker:
        answer = await worker.ask("POST", "/task/submit", body)
        assert not list(worker.runtime.doorway.jobs_here())
    assert answer.status == 422
    assert [(e["type"], e["loc"]) for e in answer.document["detail"]] == expected
    assert all(error["msg"] and "input" in error for error in answer.document["detail"])


async def test_bodies_that_are_none() -> None:
    as_json = {"Content-Type": "application/json"}
    async with vera(payload_bytes_max=1000) as worker:
        broken = await worker.ask("POST", "/task/submit", data=b"{nope", headers=as_json)
        empty = await worker.ask("POST", "/task/submit", data=b"", headers=as_json)
        deep = await worker.ask("POST", "/task/submit", data=b"[" * 500, headers=as_json)
        large = await worker.ask("POST", "/task/submit", data=b" " * 1001, headers=as_json)
        form = await worker.ask("POST", "/task/submit", data={"payload": "x"})
    assert [a.status for a in (broken, empty, deep, large, form)] == [422, 422, 400, 413, 415]
    assert broken.document["detail"][0]["type"] == "json_invalid"
    assert empty.document["detail"][0] == {
        "type": "missing", "loc": ["body"], "msg": "Field required", "input": None,
    }  # fmt: skip
    assert all(isinstance(a.document["detail"], str) for a in (deep, large, form))


async def test_a_payload_that_no_record_can_show_is_refused() -> None:
    payload = {"function": "analyze_data", "more": msgspec.msgpack.Ext(1, b"")}
    body = msgspec.msgpack.encode({"payload": payload})
    async with vera() as worker:
        packed = {"Content-Type": "application/msgpack"}
        answer = await worker.ask("POST", "/task/submit", data=body, headers=packed)
        assert not list(worker.runtime.doorway.jobs_here())
    assert answer.status == 422
    assert answer.document["detail"][0]["loc"] == ["body", "payload"]


async def test_an_unknown_function_never_runs() -> None:
    async with vera() as worker:
        for name in ("os.system", "no_such_task", "__import__"):
            body = {"payload": {"function": name}}
            answer = await worker.ask("POST", "/task/submit", body)
            assert answer.status == 404
            assert name in answer.document["detail"]
        assert not list(worker.runtime.doorway.jobs_here())


async def test_a_full_queue_says_when_and_where() -> None:
    async with vera(concurrency=1, queue_capacity=1) as worker:
        await submit(worker, "hold")
        await submit(worker, "hold")
        payload = {"function": "hold"}
        answer = await worker.ask("POST", "/task/submit", {"payload": payload})
        gate.set()
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "full" in answer.document["detail"]
    assert answer.document["position"] == 2


async def test_an_unknown_task_is_not_found() -> None:
    async with vera() as worker:
        answer = await worker.ask("GET", "/task/nobody")
        strange = await worker.ask("GET", "/task/%00%2e%2e")
        wrong_method = await worker.ask("GET", "/task/submit/x")
    assert (answer.status, answer.document) == (404, {"detail": "Task not found"})
    assert strange.status == 404
    assert wrong_method.status == 404


# GET /health, /metrics


async def test_health_has_what_both_clients_read() -> None:
    async with vera() as worker:
        answer = await worker.ask("GET", "/health")
    health = answer.document
    assert answer.status == 200
    assert health["status"] == "healthy"
    assert (health["active_tasks"], health["queue_size"]) == (0, 0)
    for name in ("cpu_percent", "memory_percent", "cpu_usage"):
        assert 0.0 <= health[name] <= 100.0
        assert f"{health[name]:.1f}"
    assert health["memory_usage_mb"] > 1
    assert datetime.fromisoformat(health["timestamp"]).utcoffset() is not None


async def test_metrics_as_json_and_as_prometheus_text() -> None:
    async with vera() as worker:
        await ended(worker, (await submit(worker, "analyze_data"))["task_id"])
        await ended(worker, (await submit(worker, "fail", "x"))["task_id"])
        metrics = (await worker.ask("GET", "/metrics")).document
        text = await worker.ask("GET", "/metrics/prometheus")
    assert (metrics["tasks_completed"], metrics["tasks_failed"]) == (1, 1)
    assert metrics["tasks_queued"] == 0
    assert 0.0 <= metrics["average_execution_time"] < 5
    assert isinstance(metrics["uptime_seconds"], int)
    assert isinstance(metrics["cpu_cores"], int)
    assert metrics["memory_total_gb"] > 0
    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(text.text)}
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for name in ("tasks_completed", "tasks_failed", "active_tasks", "queue_size")
        for sample in families[name].samples
    }
    assert values == {
        ("tasks_completed_total",): 1.0,
        ("tasks_failed_total",): 1.0,
        ("active_tasks",): 0.0,
        ("queue_size",): 0.0,
    }
    durations = families["task_duration_seconds"]
    assert durations.type == "histogram"
    bounds = [s.labels["le"] for s in durations.samples if s.name.endswith("_bucket")]
    assert bounds == [
        "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5",
        "5.0", "7.5", "10.0", "+Inf",
    ]  # fmt: skip
    assert durations.samples[-1].value < 5
    assert [s.value for s in durations.samples if s.name.endswith("_count")] == [2.0]


# The guide's clients


async def test_the_least_loaded_worker_is_chosen_by_the_guides_score() -> None:
    async with vera(concurrency=1) as busy, vera(concurrency=1) as idle:
        await submit(busy, "hold")
        await submit(busy, "hold")
        loads = []
        for worker in (idle, busy):
            health = (await worker.ask("GET", "/health")).document
            assert 0.0 <= health["cpu_percent"] / 10 <= 10.0
            loads.append(2 * health["active_tasks"] + health["queue_size"])
        gate.set()
    assert loads == [0, 3]


# The orchestrator's remote worker


async def test_capabilities_follow_from_the_registered_tasks() -> None:
    async with vera(concurrency=3) as worker:
        answer = await worker.ask("GET", "/capabilities")
    capabilities = answer.document["capabilities"]
    assert {"code_execution", "tool_execution", "remote_compute"} <= set(capabilities)
    assert "docker" not in capabilities
    assert answer.document["max_concurrent_tasks"] == 3


async def test_execute_answers_with_the_result() -> None:
    payload = {"tool_name": "grep", "tool_input": {"x": 1}}
    body = {"id": str(uuid.uuid4()), "type": "tool_call", "payload": payload, "timeout": 300}
    async with vera() as worker:
        answer = await worker.ask("POST", "/execute", body)
        again = await worker.ask("POST", "/execute", body)
        other = {**body, "type": "fail", "payload": {"text": "t"}}
        conflict = await worker.ask("POST", "/execute", other)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    result = answer.document
    metrics = result.pop("metrics")
    assert result == {"success": True, "data": "grep(1)", "error": None}
    assert metrics["execution_time"] >= 0
    assert metrics["worker_id"] == "vera-1"
    assert again.document["data"] == "grep(1)"
    assert conflict.status == 409


async def test_execute_of_what_fails_or_is_unknown() -> None:
    async with vera() as worker:
        body = {"id": "1", "type": "fail", "payload": {"text": "broken tool"}}
        failed = await worker.ask("POST", "/execute", body)
        unknown = await worker.ask("POST", "/execute", {"id": "2", "type": "docker_task"})
        misfit = await worker.ask("POST", "/execute", {"type": "tool_call", "payload": {}})
        untyped = await worker.ask("POST", "/execute", {"payload": {}})
        hours = await worker.ask("POST", "/execute", {"type": "fail", "timeout": -1})
    assert failed.status == 200
    assert (failed.document["success"], failed.document["error"]) == (False, "broken tool")
    assert [a.status for a in (unknown, misfit, untyped, hours)] == [404, 422, 422, 422]
    assert all(isinstance(a.document["detail"], str) for a in (unknown, misfit, untyped, hours))


async def test_execute_of_a_failed_task_again_is_another_try() -> None:
    body = {"id": "1", "type": "flaky", "payload": {"name": "f", "fails": 2}, "timeout": 5}
    async with vera() as worker:
        answers = [(await worker.ask("POST", "/execute", body)).document for _ in range(4)]
    assert [answer["error"] for answer in answers] == ["try 1", "try 2", None, None]
    assert [answer["data"] for answer in answers] == [None, None, 3, 3]


async def test_execute_again_after_giving_up_has_its_own_time() -> None:
    body = {"id": "slow", "type": "hold", "payload": {}, "timeout": 0.05}
    async with vera() as worker:
        first = await worker.ask("POST", "/execute", body)
        assert first.document["success"] is False
        both = asyncio.gather(
            worker.ask("POST", "/execute", {**body, "timeout": 5}),
            worker.ask("POST", "/execute", {**body, "timeout": 5}),
        )
        await eventually(lambda: worker.runtime.queue_info("default").running)
        gate.set()
        assert [a.document["data"] for a in await both] == ["held", "held"]
    assert order == ["held"]


async def test_execute_gives_up_at_its_timeout_and_the_work_with_it() -> None:
    async with vera(concurrency=1) as worker:
        body = {"id": "slow", "type": "hold", "payload": {}, "timeout": 0.05}
        running = await worker.ask("POST", "/execute", body)
        assert running.status == 200
        assert running.document["success"] is False
        assert "0.05 s" in running.document["error"]
        record = await ended(worker, "slow")
        assert record["status"] == "failed"
        await submit(worker, "hold", "in the way")
        queued = await worker.ask("POST", "/execute", {**body, "id": "late"})
        assert queued.document["success"] is False
        gate.set()
        await worker.runtime.join()
    assert order == ["in the way"]


# The orchestrator's cluster pool


async def test_submit_to_the_pool_queues_the_named_task() -> None:
    body = {
        "name": "focus",
        "payload": {"goal": "g"},
        "context": {"project": "p"},
        "priority": 0,
        "labels": ["gpu"],
    }
    async with vera() as worker:
        answer = await worker.ask("POST", "/submit", body, headers={"Connection": "close"})
        record = await ended(worker, answer.document["task_id"])
        unknown = await worker.ask("POST", "/submit", {"name": "nobody", "payload": {}})
        priority = await worker.ask("POST", "/submit", {**body, "priority": 4})
        as_json = {"Content-Type": "application/json"}
        broken = await worker.ask("POST", "/submit", data=b"{", headers=as_json)
    assert answer.status == 200
    assert answer.document["enqueued"] is True
    assert record["result"] == {"goal": "g", "context": {"project": "p"}}
    assert [a.status for a in (unknown, priority, broken)] == [404, 400, 400]


async def test_the_pool_may_send_null_for_what_is_empty() -> None:
    empty = {"payload": None, "context": None, "labels": None}
    async with vera() as worker:
        answer = await worker.ask("POST", "/submit", {"name": "analyze_data", **empty})
        assert answer.status == 200, answer.text
        record = await ended(worker, answer.document["task_id"])
    assert record["result"] == {"sum": 0, "mode": "slow"}


async def test_a_token_guards_all_doors_but_health_and_heartbeat() -> None:
    bearer = {"Authorization": "Bearer secret"}
    async with vera(token="secret") as worker:
        heartbeat = await worker.ask("GET", "/heartbeat")
        assert (heartbeat.status, heartbeat.document) == (200, {"status": "ok"})
        assert (await worker.ask("GET", "/health")).status == 200
        guarded: tuple[tuple[str, str, Any], ...] = (
            ("POST", "/submit", {"name": "focus"}),
            ("POST", "/execute", {"type": "hold"}),
            ("POST", "/task/submit", {"payload": {"function": "hold"}}),
            ("GET", "/capabilities", None),
            ("GET", "/metrics", None),
        )
        for method, path, body in guarded:
            wrong = {"Authorization": "Bearer guess"}
            assert (await worker.ask(method, path, body)).status == 401
            assert (await worker.ask(method, path, body, headers=wrong)).status == 401
        assert not list(worker.runtime.doorway.jobs_here())
        assert (await worker.ask("GET", "/capabilities", headers=bearer)).status == 200
        body = {"type": "analyze_data", "payload": {"mode": "m"}}
        assert (await worker.ask("POST", "/execute", body, headers=bearer)).status == 200


async def test_a_task_is_logged_as_the_guide_has_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "worker_runtime.web.vera")
    async with serving(analyze_data, fail, dialects=("vera",)) as worker:
        for task_id, function, args in (("fine", "analyze_data", [1]), ("bad", "fail", ["x"])):
            payload: dict[str, Any] = {"function": function, "args": args, "kwargs": {}}
            document = {"task_id": task_id, "payload": payload}
            assert (await worker.ask("POST", "/task/submit", document)).status == 200
        await eventually(lambda: "Task bad started" in caplog.text)
        await eventually(lambda: "Task fine completed in 0." in caplog.text)
    assert caplog.messages.index("Task fine started") < caplog.messages.index("Task bad started")
    assert "Task bad completed" not in caplog.text


async def test_behind_another_dialect_tasks_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "worker_runtime.web.vera")
    async with serving(analyze_data, dialects=("sandbox", "vera")) as worker:
        document = {"payload": {"function": "analyze_data", "args": [1], "kwargs": {}}}
        await worker.ask("POST", "/task/submit", document)
        await worker.runtime.join()
    assert "started" not in caplog.text


# What JSON has no form for (the last part of B32)


class _Odd:
    """Nothing encodes it."""


NOT_JSON: dict[str, Any] = {
    "tuple key": {(1, 2): 3},
    "null key": {None: 1},
    "within": {"a": [{(1, 2): 3}]},
}


@task
async def odd_result(name: str) -> Any:
    return NOT_JSON[name]


@task
async def pass_on(value: object) -> object:
    return value


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{path}/jobs.db"])
@pytest.mark.parametrize("name", NOT_JSON)
async def test_a_result_that_json_cannot_say_is_no_fault_of_the_worker(
    name: str, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = store.format(path=tmp_path)
    async with serving(odd_result, dialects=("vera",), store=url) as worker:
        call = {"type": "odd_result", "id": "odd-1", "payload": {"name": name}}
        for _ in range(2):  # the second one finds it
            answer = await worker.ask("POST", "/execute", call)
            document = answer.document
            assert (answer.status, document["success"], document["data"]) == (200, False, None)
            assert document["error"].startswith("the result cannot be encoded as JSON: ")
            assert document["metrics"]["attempts"] == 1
        answer = await worker.ask("GET", "/task/odd-1")
        assert (answer.status, answer.document["status"]) == (200, "completed")
        assert answer.document["result"] is None
        assert answer.document["error"].startswith("the result cannot be encoded as JSON: ")
        assert answer.document["payload"]["kwargs"] == {"name": name}
        # In MessagePack it can be said.
        packed = {"Accept": "application/msgpack"}
        async with worker.http.get(f"{worker.url}/v1/jobs/odd-1", headers=packed) as shown:
            raw = msgspec.msgpack.decode(await shown.read())
            assert raw["state"] == "completed"
            assert "result" in raw
    assert not [r for r in caplog.records if r.exc_info]


async def test_arguments_that_json_cannot_say_do_not_hide_their_task() -> None:
    async with serving(pass_on, dialects=("vera",)) as worker:
        for value in (_Odd(), {(1, 2): 3}):
            job = await worker.runtime.enqueue(pass_on, value)
            await job.result(timeout_s=5)
            answer = await worker.ask("GET", f"/task/{job.id}")
            assert (answer.status, answer.document["status"]) == (200, "completed")
            assert answer.document["payload"] == {"function": "pass_on", "args": [], "kwargs": {}}
            assert "cannot be encoded as JSON" in answer.document["error"]
