"""The native dialect: jobs, batches, queues and tasks under `/v1`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fleet_worker import Answer, Worker, serving
from tests.support.helpers import eventually
from worker_runtime import (
    ConfigurationError,
    JobContext,
    QueueSettings,
    Runtime,
    RuntimeStatistics,
    State,
    StoreStatistics,
    task,
)

MSGPACK = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
NDJSON = {"Content-Type": "application/x-ndjson"}


class Point(msgspec.Struct):
    x: int
    y: int = 0


@task
async def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    A second paragraph that nobody is shown.
    """
    return a + b


@task
async def move(point: Point, *, by: int) -> Point:
    return Point(point.x + by, point.y + by)


@task
async def fail() -> None:
    raise ValueError("no luck")


@task
async def odd_keys() -> dict[tuple[int, int], int]:
    return {(1, 2): 3}


@task
async def text_of(size: int) -> str:
    return "x" * size


@task(queue="slow")
async def hold(ctx: JobContext) -> str:
    ctx.report(1, 4, step="holding")
    await asyncio.Event().wait()
    return "never"


TASKS = (add, move, fail, odd_keys, text_of, hold)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    queues = (QueueSettings("slow", concurrency=1, capacity=2),)
    async with serving(*TASKS, queues=queues, cancel_grace_s=0.2, stop_within_s=0.0) as served:
        yield served


def problem(answer: Answer, status: int, code: str) -> str:
    """The detail of a problem document, once its form is that of RFC 9457."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.document["status"] == status
    assert answer.document["code"] == code
    assert answer.document["type"] == f"urn:worker-runtime:problem:{code.replace('_', '-')}"
    assert answer.document["title"]
    detail: str = answer.document["detail"]
    return detail


async def post(worker: Worker, **job: Any) -> Answer:
    return await worker.ask("POST", "/v1/jobs", job)


# POST /v1/jobs


async def test_a_job_is_accepted_and_found_where_location_says(worker: Worker) -> None:
    answer = await post(worker, task="add", args=[1], kwargs={"b": 5})
    assert answer.status == 202
    assert answer.headers["Location"] == f"/v1/jobs/{answer.document['id']}"
    found = await worker.ask("GET", f"{answer.headers['Location']}?wait_s=5")
    assert found.status == 200
    assert (found.document["state"], found.document["result"]) == ("completed", 6)
    assert found.document["result_error"] is None


async def test_wait_s_answers_the_finished_job(worker: Worker) -> None:
    body = {"task": "move", "args": [{"x": 1}], "kwargs": {"by": 3}}
    answer = await worker.ask("POST", "/v1/jobs?wait_s=5", body)
    assert (answer.status, answer.document["result"]) == (200, {"x": 4, "y": 3})
    started, ended = (
        datetime.fromisoformat(answer.document[key]) for key in ("started_at", "ended_at")
    )
    assert started <= ended
    assert started.tzinfo is not None


async def test_a_failed_job_says_why_and_shows_no_traceback(worker: Worker) -> None:
    answer = await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "fail"})
    assert answer.status == 200
    document = answer.document
    assert (document["state"], document["reason"]) == ("failed", "error")
    assert (document["error_type"], document["error"]) == ("ValueError", "no luck")
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


async def test_a_job_that_is_not_finished_in_time_is_202(worker: Worker) -> None:
    answer = await worker.ask("POST", "/v1/jobs?wait_s=0.05", {"task": "hold"})
    assert answer.status == 202
    assert answer.document["state"] == "running"
    assert answer.headers["Location"].endswith(answer.document["id"])
    assert answer.document["progress"]["percentage"] == 25.0
    assert answer.document["progress"]["step"] == "holding"


async def test_all_options_reach_the_job(worker: Worker) -> None:
    answer = await post(
        worker,
        task="add",
        args=[1],
        id="my.job:1",
        queue="slow",
        priority="critical",
        delay_s=100,
        timeout_s=7,
        result_ttl_s=60,
        expires_s=500,
        label="for Ada",
    )
    document = answer.document
    assert document["state"] == "scheduled"
    assert (document["id"], document["queue"], document["priority"], document["label"]) == (
        "my.job:1",
        "slow",
        "critical",
        "for Ada",
    )
    due = datetime.fromisoformat(document["due_at"])
    assert timedelta(seconds=90) < due - datetime.now(UTC) <= timedelta(seconds=100)
    options = (await worker.runtime.job("my.job:1")).options
    assert options is not None
    assert (options.timeout_s, options.result_ttl_s) == (7, 60)


async def test_at_names_a_moment(worker: Worker) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    answer = await post(worker, task="add", args=[1], at=at.isoformat())
    due = datetime.fromisoformat(answer.document["due_at"])
    assert abs(due - at) < timedelta(milliseconds=10)


@pytest.mark.parametrize("job_id", [".", ".."])
async def test_a33a_an_id_that_no_path_can_name_is_refused(worker: Worker, job_id: str) -> None:
    answer = await post(worker, task="add", args=[1], id=job_id)
    assert f"job id '{job_id}' must match" in problem(answer, 422, "invalid_job")
    items = [{"task": "add", "args": [1], "id": job_id}]
    batch = await worker.ask("POST", "/v1/jobs/batch", items)
    assert batch.document[0]["status"] == 422


@pytest.mark.parametrize("name", [".", ".."])
def test_a33a_a_queue_that_no_path_can_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Runtime([add], queues=[QueueSettings(name)])
    with pytest.raises(ConfigurationError, match="queue must be text that matches"):
        task(queue=name)(lambda: None)


async def test_the_same_id_is_the_same_job_and_another_payload_a_conflict(worker: Worker) -> None:
    job = {"task": "add", "args": [1], "id": "once"}
    first = await worker.ask("POST", "/v1/jobs?wait_s=5", job)
    again = await worker.ask("POST", "/v1/jobs?wait_s=5", job)
    assert again.status == 200
    assert again.document == first.document
    other = await worker.ask("POST", "/v1/jobs", {**job, "args": [2]})
    assert "once" in problem(other, 409, "job_conflict")


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b"", 400, "malformed_body", "empty"),
        (b"{", 400, "malformed_body", "JSON"),
        (b"[" * 50_000, 400, "too_deep", "32 levels"),
        (b'{"task":"add","args":[\xff]}', 400, "malformed_body", "JSON"),
        (b"[]", 422, "invalid_body", "object"),
        (b"{}", 422, "invalid_body", "`task`"),
        (b'{"task":5}', 422, "invalid_body", "`task`"),
        (b'{"task":"add","arguments":[]}', 422, "invalid_body", "`arguments`"),
        (b'{"task":"add","args":{}}', 422, "invalid_body", "`args`"),
        (b'{"task":"add","kwargs":[]}', 422, "invalid_body", "`kwargs`"),
        (b'{"task":"add","args":[1],"priority":"urgent"}', 422, "invalid_job", "one of low, "),
        (b'{"task":"add","args":[1],"priority":2}', 422, "invalid_job", "priority must be a"),
        (b'{"task":"add","args":[1],"delay_s":-1}', 422, "invalid_job", "delay_s"),
        (b'{"task":"add","args":[1],"delay_s":1e999}', 422, "invalid_body", "`delay_s`"),
        (b'{"task":"add","args":[1],"timeout_s":0}', 422, "invalid_job", "timeout_s"),
        (b'{"task":"add","args":[1],"at":"2020-01-01T00:00:00"}', 422, "invalid_job", "aware"),
        (b'{"task":"add","args":[1],"id":"a b"}', 422, "invalid_job", "a b"),
        (b'{"task":"add","args":[1],"id":""}', 422, "invalid_job", "must match"),
        (b'{"task":"nope"}', 404, "unknown_task", "'nope'"),
        (b'{"task":"add","args":[1],"queue":"x"}', 404, "unknown_queue", "'x'"),
        (b'{"task":"add","args":["1"]}', 422, "invalid_arguments", "`a`"),
        (b'{"task":"add","args":[1,2,3]}', 422, "invalid_arguments", "at most 2"),
        (b'{"task":"add"}', 422, "invalid_arguments", "missing argument `a`"),
        (b'{"task":"add","kwargs":{"a":1,"c":2}}', 422, "invalid_arguments", "`c`"),
        (b'{"task":"move","args":[{"x":"1"}],"kwargs":{"by":1}}', 422, "invalid_arguments", "x"),
    ],
)
async def test_what_cannot_be_a_job_is_refused_by_name(
    worker: Worker, body: bytes, status: int, code: str, said: str
) -> None:
    answer = await worker.ask(
        "POST", "/v1/jobs", data=body, headers={"Content-Type": "application/json"}
    )
    assert said in problem(answer, status, code)
    assert (await worker.ask("GET", "/v1/jobs")).document["jobs"] == []  # nothing was accepted


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "text/json", "application/json; charset=utf-16"]
)
async def test_a_wrong_content_type_is_415(worker: Worker, kind: str) -> None:
    answer = await worker.ask(
        "POST", "/v1/jobs", data=b'{"task":"add","args":[1]}', headers={"Content-Type": kind}
    )
    assert problem(answer, 415, "unsupported_media_type")


async def test_an_oversized_body_is_413_however_it_is_sent() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"task":"'
        for _ in range(100):
            yield b"x" * 100

    async with serving(add, payload_bytes_max=1000) as worker:
        whole = await worker.ask("POST", "/v1/jobs", {"task": "x" * 2000})
        assert "1000 bytes" in problem(whole, 413, "payload_too_large")
        headers = {"Content-Type": "application/json"}
        chunked = await worker.ask("POST", "/v1/jobs", data=parts(), headers=headers)
        assert "1000 bytes" in problem(chunked, 413, "payload_too_large")


async def test_a_full_queue_is_503_with_retry_after(worker: Worker) -> None:
    for _ in range(3):  # one runs, two wait
        assert (await post(worker, task="hold")).status == 202
    answer = await post(worker, task="hold")
    assert "'slow' is full" in problem(answer, 503, "queue_full")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_runtime_that_stops_is_503(worker: Worker) -> None:
    worker.runtime.quiet()
    assert problem(await post(worker, task="add", args=[1]), 503, "shutting_down")


async def test_messagepack_both_ways(worker: Worker) -> None:
    body = msgspec.msgpack.encode({"task": "add", "args": [40]})
    url = f"{worker.url}/v1/jobs?wait_s=5"
    async with worker.http.post(url, data=body, headers=MSGPACK) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/msgpack"
        document = msgspec.msgpack.decode(await response.read())
    assert (document["state"], document["result"]) == ("completed", 42)


async def test_a_result_that_json_cannot_spell_is_said_not_hidden(worker: Worker) -> None:
    answer = await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "odd_keys"})
    assert (answer.document["state"], answer.document["result"]) == ("completed", None)
    assert "cannot be encoded" in answer.document["result_error"]


async def test_a_result_enqueued_in_python_may_have_no_encoding(worker: Worker) -> None:
    class Opaque:
        pass

    @task
    async def opaque() -> object:
        return Opaque()

    async with serving(opaque, text_of, result_bytes_max=1000) as other:
        handle = await other.runtime.enqueue(opaque)
        await handle.result(timeout_s=5)
        found = await other.ask("GET", f"/v1/jobs/{handle.id}")
        assert (found.status, found.document["state"]) == (200, "completed")
        assert "cannot be encoded" in found.document["result_error"]
        # Over HTTP somebody will read the result, so that the same job fails.
        posted = await other.ask("POST", "/v1/jobs?wait_s=5", {"task": "opaque"})
        assert (posted.document["state"], posted.document["reason"]) == ("failed", "unencodable")

        large = await other.runtime.enqueue(text_of, 5000)
        await large.result(timeout_s=5)
        found = await other.ask("GET", f"/v1/jobs/{large.id}")
        assert "1000 are shown" in found.document["result_error"]


async def test_a_client_that_goes_away_leaves_its_job_alone(worker: Worker) -> None:
    async with aiohttp.ClientSession() as session:
        posting = asyncio.create_task(
            session.post(f"{worker.url}/v1/jobs?wait_s=30", json={"task": "hold"})
        )
        await eventually(lambda: worker.runtime.queue_info("slow").running == 1)
        posting.cancel()
    page = await worker.runtime.list_jobs()
    await asyncio.sleep(0.05)  # time for a disconnect to do harm
    assert (await worker.runtime.job(page.jobs[0].id)).state is State.RUNNING


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    data=st.binary(max_size=60) | st.text(max_size=40).map(str.encode),
    kind=st.sampled_from(["application/json", "application/msgpack", "application/x-ndjson"]),
    path=st.sampled_from(["/v1/jobs", "/v1/jobs/batch", "/v1/jobs/x/retry"]),
)
async def test_no_body_gets_a_500(worker: Worker, data: bytes, kind: str, path: str) -> None:
    answer = await worker.ask("POST", path, data=data, headers={"Content-Type": kind})
    assert answer.status < 500


# Looking, cancelling, retrying


@pytest.mark.parametrize("wait_s", ["-1", "61", "nan", "x", ""])
async def test_wait_s_has_bounds(worker: Worker, wait_s: str) -> None:
    for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/jobs/x"), ("POST", "/v1/jobs/batch")):
        answer = await worker.ask(method, f"{path}?wait_s={wait_s}", [])
        assert "0 to 60" in problem(answer, 422, "invalid_query")


@pytest.mark.parametrize("job_id", ["nope", "a" * 5000, "../../etc/passwd", "ü", "%00", "<b>"])
async def test_a_hostile_or_unknown_id_is_404(worker: Worker, job_id: str) -> None:
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/retry")):
        answer = await worker.ask(method, f"/v1/jobs/{quote(job_id, safe='')}{end}")
        assert answer.status == 404
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_waiting_job_is_cancelled_at_once_and_cancelling_again_is_harmless(
    worker: Worker,
) -> None:
    await post(worker, task="add", args=[1], id="later", delay_s=100)
    for _ in range(2):
        answer = await worker.ask("DELETE", "/v1/jobs/later")
        assert (answer.status, answer.document["state"]) == (200, "cancelled")


async def test_a_running_job_is_told_to_stop(worker: Worker) -> None:
    await post(worker, task="hold", id="running")
    await eventually(lambda: worker.runtime.queue_info("slow").running == 1)
    answer = await worker.ask("DELETE", "/v1/jobs/running")
    assert answer.status in (200, 202)
    ended = await worker.ask("GET", "/v1/jobs/running?wait_s=5")
    assert ended.document["state"] == "cancelled"


async def test_a_completed_job_cannot_be_cancelled(worker: Worker) -> None:
    await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "add", "args": [1], "id": "done"})
    answer = await worker.ask("DELETE", "/v1/jobs/done")
    assert "completed" in problem(answer, 409, "invalid_transition")


async def test_a_failed_job_runs_again_on_request_and_no_other(worker: Worker) -> None:
    await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "fail", "id": "again"})
    answer = await worker.ask("POST", "/v1/jobs/again/retry")
    assert (answer.status, answer.headers["Location"]) == (202, "/v1/jobs/again")
    again = await worker.runtime.job("again")
    await eventually(lambda: again.state is State.FAILED)
    await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "add", "args": [1], "id": "done"})
    refused = await worker.ask("POST", "/v1/jobs/done/retry")
    assert problem(refused, 409, "invalid_transition")


async def test_the_list_filters_and_pages(worker: Worker) -> None:
    for n in range(5):
        job = {"task": "add", "args": [n], "id": f"add-{n}"}
        await worker.ask("POST", "/v1/jobs?wait_s=5", job)
    await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "fail", "id": "failed"})
    await post(worker, task="add", args=[1], id="slow", queue="slow", delay_s=100)

    async def ids(query: str) -> list[str]:
        answer = await worker.ask("GET", f"/v1/jobs{query}")
        assert answer.status == 200, answer.text
        return [job["id"] for job in answer.document["jobs"]]

    assert await ids("?state=failed") == ["failed"]
    assert await ids("?queue=slow") == ["slow"]
    assert await ids("?task=add&state=completed") == [f"add-{n}" for n in (4, 3, 2, 1, 0)]
    assert await ids("?task=nope") == []

    seen: list[str] = []
    query = "?limit=3"
    while True:
        page = (await worker.ask("GET", f"/v1/jobs{query}")).document
        seen += [job["id"] for job in page["jobs"]]
        if page["cursor"] is None:
            break
        assert len(page["jobs"]) == 3
        query = f"?limit=3&cursor={page['cursor']}"
    assert seen == ["slow", "failed", *(f"add-{n}" for n in (4, 3, 2, 1, 0))]


@pytest.mark.parametrize(
    "query", ["state=done", "limit=0", "limit=1001", "limit=x", "page=2", "cursor=zzz", "limit=2.5"]
)
async def test_a_wrong_query_is_422_and_named(worker: Worker, query: str) -> None:
    answer = await worker.ask("GET", f"/v1/jobs?{query}")
    assert answer.status == 422
    assert query.partition("=")[0] in answer.document["detail"]


# Batches


async def test_each_item_of_a_batch_is_answered_on_its_own(worker: Worker) -> None:
    items = [
        {"task": "add", "args": [1]},
        {"task": "nope"},
        {"task": "add", "args": ["x"]},
        {"task": 5},
        {"task": "add", "args": [2], "delay_s": -1},
        {"task": "add", "args": [3], "id": "third"},
        {"task": "add", "args": [3], "id": "third"},
        {"task": "add", "args": [4], "id": "third"},
        {"task": "add", "args": [5], "unknown": 1},
        {"task": "fail"},
    ]
    answer = await worker.ask("POST", "/v1/jobs/batch?wait_s=5", items)
    assert answer.status == 200
    answers = answer.document
    assert [a["status"] for a in answers] == [200, 404, 422, 422, 422, 200, 200, 409, 422, 200]
    assert [("job" in a, "problem" in a) for a in answers] == [
        (a["status"] == 200, a["status"] != 200) for a in answers
    ]
    assert answers[0]["job"]["result"] == 3
    assert answers[5]["job"] == answers[6]["job"]
    assert answers[1]["problem"]["code"] == "unknown_task"
    assert answers[9]["job"]["reason"] == "error"


async def test_a_batch_is_accepted_without_waiting(worker: Worker) -> None:
    answer = await worker.ask("POST", "/v1/jobs/batch", [{"task": "hold"}] * 5)
    # One runs and two wait; what does not fit is refused, the others stay.
    assert [a["status"] for a in answer.document] == [202, 202, 202, 503, 503]


async def test_a_batch_waits_for_all_of_its_jobs_and_no_longer_than_asked(worker: Worker) -> None:
    items = [{"task": "hold"}, {"task": "add", "args": [1]}]
    answer = await worker.ask("POST", "/v1/jobs/batch?wait_s=0.1", items)
    assert [a["status"] for a in answer.document] == [202, 200]


async def test_a_batch_of_lines_is_answered_in_lines(worker: Worker) -> None:
    lines = b'{"task":"add","args":[1]}\n\r\n  \nnot json\n{"task":"add","args":[2]}'
    answer = await worker.ask("POST", "/v1/jobs/batch?wait_s=5", data=lines, headers=NDJSON)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    answers = [msgspec.json.decode(line) for line in answer.text.splitlines()]
    assert [a["status"] for a in answers] == [200, 400, 200]
    assert answers[2]["job"]["result"] == 4


async def test_a_batch_in_messagepack(worker: Worker) -> None:
    body = msgspec.msgpack.encode([{"task": "add", "args": [1]}, {"task": "nope"}])
    url = f"{worker.url}/v1/jobs/batch?wait_s=5"
    async with worker.http.post(url, data=body, headers=MSGPACK) as response:
        answers = msgspec.msgpack.decode(await response.read())
    assert [a["status"] for a in answers] == [200, 404]
    assert answers[0]["job"]["result"] == 3


@pytest.mark.parametrize(("body", "status"), [("{}", 422), ("5", 422), ("[", 400), ("", 400)])
async def test_a_batch_that_is_none_is_refused_whole(
    worker: Worker, body: str, status: int
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await worker.ask("POST", "/v1/jobs/batch", data=body, headers=headers)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_batch_has_a_most(worker: Worker) -> None:
    answer = await worker.ask("POST", "/v1/jobs/batch", [{"task": "add"}] * 10_001)
    assert "10000" in problem(answer, 422, "invalid_batch")


async def test_an_empty_batch_is_no_error(worker: Worker) -> None:
    answer = await worker.ask("POST", "/v1/jobs/batch", [])
    assert (answer.status, answer.document) == (200, [])


# Queues and tasks


async def test_queues_are_shown_paused_and_resumed(worker: Worker) -> None:
    shown = (await worker.ask("GET", "/v1/queues")).document["queues"]
    assert [queue["name"] for queue in shown] == ["slow", "default"]
    assert shown[0] == {
        "name": "slow",
        "waiting": 0,
        "running": 0,
        "concurrency": 1,
        "capacity": 2,
        "paused": False,
    }
    paused = await worker.ask("POST", "/v1/queues/default/pause")
    assert (paused.status, paused.document["paused"]) == (200, True)
    waiting = await worker.ask("POST", "/v1/jobs?wait_s=0.05", {"task": "add", "args": [1]})
    assert (waiting.status, waiting.document["state"]) == (202, "queued")
    resumed = await worker.ask("POST", "/v1/queues/default/resume")
    assert resumed.document["paused"] is False
    found = await worker.ask("GET", f"{waiting.headers['Location']}?wait_s=5")
    assert found.document["state"] == "completed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/queues/nope"),
        ("POST", "/v1/queues/nope/pause"),
        ("POST", "/v1/queues/nope/resume"),
    ],
)
async def test_an_unknown_queue_is_404(worker: Worker, method: str, path: str) -> None:
    assert "'nope'" in problem(await worker.ask(method, path), 404, "unknown_queue")


async def test_tasks_are_shown_with_the_schema_of_their_parameters(worker: Worker) -> None:
    shown = {t["name"]: t for t in (await worker.ask("GET", "/v1/tasks")).document["tasks"]}
    assert set(shown) == {"add", "move", "fail", "odd_keys", "text_of", "hold"}
    assert shown["add"] == {
        "name": "add",
        "queue": "default",
        "priority": "normal",
        "run_in": "loop",
        "timeout_s": None,
        "max_attempts": 1,
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a"],
        },
    }
    point = shown["move"]["parameters"]
    assert point["properties"]["point"] == {"$ref": "#/$defs/Point"}
    assert point["$defs"]["Point"]["required"] == ["x"]
    assert shown["hold"]["parameters"]["properties"] == {}  # the context is not a parameter


@task(run_in="process")
def halve(number: int) -> float:
    return number / 2


async def test_statistics_are_those_of_the_runtime() -> None:
    async with serving(add, token="secret", dialects=()) as worker:
        assert (await worker.ask("GET", "/v1/statistics")).status == 401
        await (await worker.runtime.enqueue(add, 1)).result(timeout_s=5)
        headers = {"Authorization": "Bearer secret"}
        shown = (await worker.ask("GET", "/v1/statistics", headers=headers)).document
        packed = {**headers, "Accept": "application/msgpack"}
        async with worker.http.get(f"{worker.url}/v1/statistics", headers=packed) as answer:
            unpacked = msgspec.msgpack.decode(await answer.read(), type=RuntimeStatistics)
    statistics = msgspec.convert(shown, RuntimeStatistics)
    assert statistics.jobs.completed == unpacked.jobs.completed == 1
    assert statistics.store == StoreStatistics(kind="memory")
    assert shown["store"]["unavailable"] is None
    assert shown["queues"][0]["name"] == "default"


async def test_executors_are_shown_with_each_child() -> None:
    async with serving(halve) as worker:
        handle = await worker.runtime.enqueue(halve, 3)
        assert await handle.result(timeout_s=10) == 1.5
        shown = (await worker.ask("GET", "/v1/executors")).document
    assert set(shown) == {"loop", "thread", "process"}
    (child,) = shown["process"]["children"]
    assert child["state"] == "idle"
    assert child["jobs_done"] == 1
    assert child["job_id"] is None
    assert child["pid"] > 0
    assert child["age_s"] > 0
    assert child["memory_bytes"] > 0
