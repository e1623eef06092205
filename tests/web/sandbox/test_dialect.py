"""The sandbox's contract: its guide, and what its load balancer, dashboards and workers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet_worker import Answer, Worker, serving
from tests.support.helpers import eventually
from worker_runtime import State, task
from worker_runtime.clock.source import SYSTEM
from worker_runtime.web.sandbox import dialect as sandbox
from worker_runtime.web.sandbox.simulated_task import SimulatedTask


@task(name="task")
async def echo(id: str, weight: float) -> dict[str, Any]:
    return {"id": id, "weight": weight}


def simulated(*, response_delay_ms: int = 0, failure_rate: float = 0.0) -> Callable[..., Any]:
    work = SimulatedTask(SYSTEM, response_delay_ms=response_delay_ms, failure_rate=failure_rate)
    return task(name="task")(work)


class Gate:
    """A task that runs until the test opens the gate."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.started = 0

    def task(self) -> Callable[..., Any]:
        @task(name="task")
        async def gated(id: str, weight: float) -> None:
            self.started += 1
            await self.opened.wait()

        return gated


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with serving(
        simulated(), name="my-worker-1", color="#FF00FF", dialects=("sandbox",)
    ) as served:
        yield served


def flat_error(answer: Answer, *, worker: str = "my-worker-1") -> str:
    """The text of a refusal, once its shape is what the sandbox's workers answer."""
    assert answer.headers["Content-Type"] == "application/json"
    outlook = {"position", "predicted_wait_s"} if answer.status == 503 else set()
    assert set(answer.document) - outlook == {"error", "worker", "detail"}
    assert answer.document["worker"] == worker
    text: str = answer.document["error"]
    assert text
    return text


async def metrics_of(worker: Worker) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name, then by the values of their labels other than the worker's name."""
    answer = await worker.ask("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = tuple(v for k, v in sorted(sample.labels.items()) if k != "worker")
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


# POST /task


async def test_a_task_is_answered_with_both_names_of_its_duration(worker: Worker) -> None:
    before = datetime.now(UTC)
    answer = await worker.ask("POST", "/task", {"id": "task-123", "weight": 1.0})
    assert answer.status == 200
    document = answer.document
    timestamp = datetime.fromisoformat(document.pop("timestamp"))
    assert before - timedelta(seconds=1) <= timestamp <= datetime.now(UTC) + timedelta(seconds=1)
    assert isinstance(document["processing_time_ms"], int)
    assert document == {
        "id": "task-123",
        "worker": "my-worker-1",
        "color": "#FF00FF",
        "processing_time_ms": document["processingTimeMs"],
        "processingTimeMs": document["processingTimeMs"],
    }


async def test_the_timestamp_says_utc_with_a_z(worker: Worker) -> None:
    answer = await worker.ask("POST", "/task", {"id": "a"})
    assert answer.document["timestamp"].endswith("Z")


async def test_the_duration_is_the_measured_work() -> None:
    async with serving(simulated(response_delay_ms=40)) as worker:
        answer = await worker.ask("POST", "/task", {"id": "a", "weight": 2})
    assert 75 <= answer.document["processing_time_ms"] < 20_000  # neither s nor us


async def test_the_duration_is_never_short_of_the_delay() -> None:
    async with serving(simulated(response_delay_ms=20), concurrency=10) as worker:
        tasks = [worker.ask("POST", "/task", {"id": str(n)}) for n in range(80)]
        answers = await asyncio.gather(*tasks)
    assert min(a.document["processing_time_ms"] for a in answers) >= 20


@pytest.mark.parametrize(
    "label", ["", "x" * 5000, "ü\n\"'<>&;/../\x00\U0001f600", "task-123", " ", "null", "🙂" * 300]
)
async def test_any_text_is_an_id_also_twice(worker: Worker, label: str) -> None:
    for _ in range(2):
        answer = await worker.ask("POST", "/task", {"id": label})
        assert (answer.status, answer.document["id"]) == (200, label)


@pytest.mark.parametrize("body", ['{"weight":1}', "{}", '{"id":null}'])
async def test_a_task_without_an_id_gets_one(worker: Worker, body: str) -> None:
    first, second = [await worker.ask("POST", "/task", data=body) for _ in range(2)]
    assert first.status == second.status == 200
    assert first.document["id"] != second.document["id"]
    assert first.document["id"]


@pytest.mark.parametrize(
    ("given", "received"),
    [("1", 1), ("1.0", 1.0), ("2.5", 2.5), ("null", 1.0), ("0", 0), ("-3", -3), ("1e-9", 1e-9)],
)
async def test_the_weight_may_be_any_number_or_null(given: str, received: float) -> None:
    async with serving(echo) as worker:
        answer = await worker.ask("POST", "/task", data=f'{{"id":"a","weight":{given}}}')
    assert answer.status == 200
    assert answer.document["result"] == {"id": "a", "weight": received}


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "bogus"])
async def test_any_content_type_is_accepted(worker: Worker, kind: str) -> None:
    answer = await worker.ask(
        "POST", "/task", data=b'{"id":"a","extra":[1]}', headers={"Content-Type": kind}
    )
    assert (answer.status, answer.document["id"]) == (200, "a")


async def test_a_chunked_body_is_accepted(worker: Worker) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b'{"id":', b'"chun', b'ked"}'):
            yield part

    answer = await worker.ask("POST", "/task", data=parts())
    assert (answer.status, answer.document["id"]) == (200, "chunked")


BAD_BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"not json", 400),
    (b'{"id":"a"} trailing', 400),
    (b'{"id":"\xff"}', 400),
    (b'{"weight":NaN}', 400),
    (b'{"weight":Infinity}', 400),
    (b'{"id":"\\ud800"}', 400),
    (b"[" * 100_000, 400),
    (b'{"x":' * 50 + b"1" + b"}" * 50, 400),
    (b"[]", 422),
    (b"null", 422),
    (b"1", 422),
    (b'{"weight":1e999}', 422),
    (b'{"weight":"1"}', 422),
    (b'{"weight":true}', 422),
    (b'{"weight":[1]}', 422),
    (b'{"id":5}', 422),
    (b'{"id":{}}', 422),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
async def test_a_bad_body_is_a_4xx_in_the_sandboxes_shape(
    worker: Worker, body: bytes, status: int
) -> None:
    answer = await worker.ask("POST", "/task", data=body)
    assert answer.status == status
    assert flat_error(answer)
    assert "Traceback" not in answer.text


async def test_a_body_above_the_limit_is_413() -> None:
    async with serving(simulated(), payload_bytes_max=2000, name="my-worker-1") as worker:
        answer = await worker.ask("POST", "/task", {"id": "x" * 3000})
        assert answer.status == 413
        assert "2000 bytes" in flat_error(answer)
        assert (await worker.ask("POST", "/task", {"id": "x" * 1000})).status == 200


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=st.one_of(st.binary(max_size=80), st.text(max_size=40).map(str.encode)))
async def test_no_body_gets_a_5xx(worker: Worker, body: bytes) -> None:
    answer = await worker.ask("POST", "/task", data=body)
    assert answer.status < 500


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children)
    ),
    max_leaves=8,
)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(label=json_values, weight=json_values, more=st.dictionaries(st.text(), json_values))
async def test_a_json_body_is_run_exactly_when_its_types_fit(
    worker: Worker, label: Any, weight: Any, more: dict[str, Any]
) -> None:
    answer = await worker.ask("POST", "/task", {**more, "id": label, "weight": weight})
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    fits = (label is None or isinstance(label, str)) and (weight is None or is_number)
    try:
        json.dumps([label, more], ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON's escapes can spell and UTF-8 cannot
        return
    assert answer.status == (200 if fits else 422), answer.text


async def test_a_simulated_failure_is_a_500_after_the_work(worker: Worker) -> None:
    await worker.ask("PUT", "/config", {"failure_rate": 1, "response_delay_ms": 30})
    answer = await worker.ask("POST", "/task", {"id": "a"})
    assert answer.status == 500
    assert flat_error(answer) == "Simulated failure"
    counted = await metrics_of(worker)
    assert counted["worker_requests_total"][("failed",)] == 1
    assert counted["worker_processing_time_ms_sum"][()] >= 25


async def test_a_task_that_raises_is_a_500_without_a_traceback() -> None:
    @task(name="task")
    async def broken(id: str, weight: float) -> None:
        raise ValueError("no such thing")

    async with serving(broken, name="my-worker-1") as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
    assert answer.status == 500
    assert flat_error(answer) == "no such thing"


@pytest.mark.parametrize("result", [{(1, 2): 3}, {None: 1}, 2**100, object(), "\ud800"])
async def test_a_result_that_json_cannot_spell_is_said(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    @task(name="task")
    async def odd(id: str, weight: float) -> Any:
        return result

    async with serving(odd, name="my-worker-1") as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
        counted = await metrics_of(worker)
    assert answer.status == 500
    assert "encoded" in flat_error(answer)
    assert counted["worker_requests_total"][("failed",)] == 1
    assert counted["worker_requests_total"][("success",)] == 0
    assert not [r for r in caplog.records if r.exc_info and r.name.endswith(".web")]


async def test_without_a_task_of_that_name_it_is_404_and_named() -> None:
    async with serving(name="my-worker-1") as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
    assert answer.status == 404
    assert "'task'" in flat_error(answer)


async def test_a_task_that_does_not_take_id_and_weight_is_422_and_says_so() -> None:
    @task(name="task")
    async def other(number: int) -> None: ...

    async with serving(other, name="my-worker-1") as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
    assert answer.status == 422
    assert "must take `id` and `weight`" in flat_error(answer)


async def test_a_task_may_take_them_by_keyword_and_more_with_defaults() -> None:
    @task(name="task")
    async def keyword(*, weight: float, id: str, colour: str = "blue") -> str:
        return f"{id} {weight} {colour}"

    async with serving(keyword) as worker:
        answer = await worker.ask("POST", "/task", {"id": "a", "weight": 2})
    assert answer.document["result"] == "a 2.0 blue"


async def test_a_task_that_takes_too_long_is_cancelled_and_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "TASK_TIMEOUT_S", 0.05)
    gate = Gate()
    async with serving(gate.task(), name="my-worker-1") as worker:
        answer = await worker.ask("POST", "/task", {"id": "a"})
        assert answer.status == 504
        assert "0.05 s" in flat_error(answer)
        page = await worker.runtime.list_jobs()
        job = await worker.runtime.job(page.jobs[0].id)
        await eventually(lambda: job.state is State.CANCELLED)


# Load


async def test_a_burst_that_the_queue_can_hold_is_never_refused() -> None:
    async with serving(simulated(response_delay_ms=1), concurrency=3, queue_capacity=50) as worker:
        burst = [worker.ask("POST", "/task", {"id": str(n)}) for n in range(53)]
        answers = await asyncio.gather(*burst)
    assert [a.status for a in answers] == [200] * 53
    assert [a.document["id"] for a in answers] == [str(n) for n in range(53)]


async def test_a_full_queue_is_503_at_once_while_health_stays_200() -> None:
    gate = Gate()
    async with serving(
        gate.task(), concurrency=2, queue_capacity=3, name="my-worker-1", dialects=("sandbox",)
    ) as worker:
        waiting = [
            asyncio.create_task(worker.ask("POST", "/task", {"id": str(n)})) for n in range(5)
        ]
        await eventually(lambda: worker.runtime.queue_info("default").waiting == 3)
        answer = await worker.ask("POST", "/task", {"id": "one too many"})
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert flat_error(answer) == "Queue full - service overloaded"
        assert answer.document["position"] == 4
        assert answer.document["predicted_wait_s"] >= 0

        health = await worker.ask("GET", "/health")
        assert health.status == 200
        assert health.document["load"] == "unhealthy"
        assert (health.document["currentLoad"], health.document["queueDepth"]) == (2, 3)
        status = await worker.ask("GET", "/status")
        assert (status.document["current_load"], status.document["queue_depth"]) == (2, 3)
        gauges = await metrics_of(worker)
        assert gauges["worker_current_load"][()] == gauges["worker_active_requests"][()] == 2
        assert gauges["worker_queue_depth"][()] == 3
        assert gauges["worker_requests_total"][("rejected",)] == 1

        gate.opened.set()
        assert [a.status for a in await asyncio.gather(*waiting)] == [200] * 5


async def test_a_worker_that_stops_answers_503(worker: Worker) -> None:
    worker.runtime.quiet()
    answer = await worker.ask("POST", "/task", {"id": "a"})
    assert answer.status == 503
    assert "stopping" in flat_error(answer)
    assert (await worker.ask("GET", "/health")).document["healthy"] is False


# /health, /status, /metrics


async def test_health_says_what_guide_and_workers_say(worker: Worker) -> None:
    answer = await worker.ask("GET", "/health")
    assert answer.status == 200
    document = answer.document
    assert isinstance(document.pop("uptime"), int)
    assert document.pop("version")
    assert document == {
        "healthy": True,
        "status": "ok",
        "currentLoad": 0,
        "queueDepth": 0,
        "load": "healthy",
    }


async def test_status_says_what_the_guide_says() -> None:
    async with serving(simulated(), name="w", color="#10b981", concurrency=7) as worker:
        answer = await worker.ask("GET", "/status")
    assert answer.document == {
        "name": "w",
        "color": "#10b981",
        "current_load": 0,
        "max_load": 7,
        "queue_depth": 0,
        "healthy": True,
        "weight": 1.0,
    }


async def test_both_sets_of_metric_names_are_served(worker: Worker) -> None:
    for body in (b'{"id":"a"}', b'{"id":"b"}', b"nonsense"):
        await worker.ask("POST", "/task", data=body)
    text = (await worker.ask("GET", "/metrics")).text
    assert 'worker_requests_total{status="success",worker="my-worker-1"} 2.0' in text
    for line in (
        "# TYPE worker_requests_total counter",
        "# TYPE worker_active_requests gauge",
        "# TYPE worker_queue_depth gauge",
        "# TYPE worker_processing_time_ms histogram",
        "# TYPE worker_current_load gauge",
        "# TYPE worker_request_duration_ms histogram",
    ):
        assert line in text
    samples = await metrics_of(worker)
    assert samples["worker_requests_total"] == {
        ("success",): 2,
        ("failed",): 0,
        ("rejected",): 0,
        ("overloaded",): 0,
        ("error",): 1,
    }
    guide = samples["worker_processing_time_ms_bucket"]
    assert {("10",), ("50",), ("100",), ("+Inf",)} <= guide.keys()
    assert guide[("+Inf",)] == samples["worker_processing_time_ms_count"][()] == 2
    bounds = [str(2**n) for n in range(10)]
    assert list(samples["worker_request_duration_ms_bucket"]) == [
        (bound,) for bound in (*bounds, "+Inf")
    ]
    assert any(name.startswith("worker_runtime_") for name in samples)


# /config


async def test_config_answers_the_four_values(worker: Worker) -> None:
    answer = await worker.ask("GET", "/config")
    assert answer.document == {
        "max_concurrent_requests": 10,
        "response_delay_ms": 0,
        "failure_rate": 0.0,
        "queue_size": 100,
    }


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_single_field_is_merged_also_from_a_chunked_body(
    worker: Worker, method: str
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"response_delay_ms"'
        yield b":300}"

    before = (await worker.ask("GET", "/config")).document
    answer = await worker.ask(method, "/config", data=parts())
    assert answer.status == 200
    assert answer.document == {**before, "response_delay_ms": 300}
    assert (await worker.ask("GET", "/config")).document == answer.document


@pytest.mark.parametrize(
    "change",
    [
        {"max_concurrent_requests": 0},
        {"max_concurrent_requests": -1},
        {"max_concurrent_requests": 1.5},
        {"max_concurrent_requests": True},
        {"max_concurrent_requests": 10**30},
        {"response_delay_ms": -1},
        {"response_delay_ms": "300"},
        {"failure_rate": 1.01},
        {"failure_rate": -0.1},
        {"failure_rate": None},
        {"queue_size": 0},
        {"queue_size": []},
        {"unknown": 5},
        {},
    ],
)
async def test_invalid_fields_are_ignored_and_valid_ones_beside_them_taken(
    worker: Worker, change: dict[str, Any]
) -> None:
    before = (await worker.ask("GET", "/config")).document
    answer = await worker.ask("PUT", "/config", change)
    assert (answer.status, answer.document) == (200, before)
    beside = {"failure_rate": 0.25} | change if "failure_rate" not in change else {"queue_size": 9}
    answer = await worker.ask("PUT", "/config", {**change, **beside})
    assert answer.status == 200
    assert (answer.document["failure_rate"], answer.document["queue_size"]) in [(0.25, 100), (0, 9)]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'"x"', b"\xff"])
async def test_a_bad_config_body_is_a_4xx_and_changes_nothing(worker: Worker, body: bytes) -> None:
    before = (await worker.ask("GET", "/config")).document
    answer = await worker.ask("PUT", "/config", data=body)
    assert answer.status in (400, 422)
    assert flat_error(answer) == "Invalid config body"
    assert (await worker.ask("GET", "/config")).document == before


async def test_a_change_of_concurrency_and_queue_size_holds_at_once() -> None:
    gate = Gate()
    async with serving(gate.task(), concurrency=1, queue_capacity=10) as worker:
        waiting = [
            asyncio.create_task(worker.ask("POST", "/task", {"id": str(n)})) for n in range(6)
        ]
        await eventually(lambda: worker.runtime.queue_info("default").waiting == 5)
        assert gate.started == 1
        await worker.ask("PUT", "/config", {"max_concurrent_requests": 4})
        await eventually(lambda: gate.started == 4)

        answer = await worker.ask("PUT", "/config", {"queue_size": 1, "max_concurrent_requests": 2})
        assert answer.document["queue_size"] == 1
        assert (await worker.ask("POST", "/task", {"id": "refused"})).status == 503
        gate.opened.set()  # what was accepted before is kept
        assert [a.status for a in await asyncio.gather(*waiting)] == [200] * 6


async def test_fewer_at_a_time_after_concurrency_is_lowered() -> None:
    running = most = 0

    @task(name="task")
    async def counted(id: str, weight: float) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    async with serving(counted, concurrency=8) as worker:

        async def burst() -> None:
            nonlocal most
            most = 0
            posts = [worker.ask("POST", "/task", {"id": str(n)}) for n in range(20)]
            assert {a.status for a in await asyncio.gather(*posts)} == {200}

        await burst()
        assert most == 8
        await worker.ask("PUT", "/config", {"max_concurrent_requests": 2})
        await burst()
        assert most == 2


async def test_config_reaches_the_built_in_task(worker: Worker) -> None:
    await worker.ask("PUT", "/config", {"response_delay_ms": 60})
    answer = await worker.ask("POST", "/task", {"id": "a", "weight": 0})
    assert answer.document["processing_time_ms"] >= 55  # a weight of 0 counts as 1


# Browsers and other methods


@pytest.mark.parametrize("path", ["/task", "/config", "/status", "/health", "/metrics"])
async def test_any_origin_may_ask(worker: Worker, path: str) -> None:
    answer = await worker.ask("OPTIONS", path)
    assert (answer.status, answer.text) == (200, "")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]
    method = "POST" if path == "/task" else "GET"
    asked = await worker.ask(method, path, {"id": "a"} if path == "/task" else None)
    assert asked.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/task"), ("PUT", "/task"), ("DELETE", "/config")]
)
async def test_a_wrong_method_is_405_in_the_sandboxes_shape(
    worker: Worker, method: str, path: str
) -> None:
    answer = await worker.ask(method, path)
    assert answer.status == 405
    assert flat_error(answer)
    assert "POST" in answer.headers["Allow"]
