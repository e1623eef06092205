"""Numbers from outside (B26): what no store can keep is refused at every door, harming nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet_worker import Worker, serving
from worker_runtime import InvalidJob, Retry, task
from worker_runtime.errors import ConfigurationError

STORES = ["memory://", "sqlite:///{path}/jobs.db", "redis"]
EDGES = (2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 10**400, -1, -(2**63), -(10**30))

PATHS = [
    ("GET", "/v1/jobs?cursor={}"),
    ("GET", "/v1/jobs?state=failed&queue=default&task=keep&limit=1&cursor={}"),
    ("GET", "/v1/jobs?limit={}"),
    ("DELETE", "/v1/jobs?state=failed&limit={}"),
    ("POST", "/v1/jobs/retry?limit={}"),
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/nope?wait_s={}"),
    ("GET", "/task/{}"),
    ("GET", "/api/v1/operations?limit={}"),
    ("GET", "/api/v1/operations?offset={}"),
    ("GET", "/api/v1/operations/{}"),
    ("GET", "/api/v1/operations/nope/metrics?cursor={}"),
]
JOB_FIELDS = ("delay_s", "timeout_s", "expires_s", "result_ttl_s", "priority", "delay_until", "key")
RETRY_FIELDS = ("max_attempts", "delay_s", "factor", "delay_max_s", "jitter")
BODIES = [
    *(("/v1/jobs", f'{{"task":"keep","args":[1],"{name}":%s}}') for name in JOB_FIELDS),
    *(("/v1/jobs", f'{{"task":"keep","args":[1],"retry":{{"{n}":%s}}}}') for n in RETRY_FIELDS),
    ("/v1/jobs?wait_s=5", '{"task":"keep","args":[%s]}'),
    ("/v1/jobs/batch?wait_s=5", '[{"task":"keep","args":[{"a":[%s]}]}]'),
    ("/task", '{"id":"a","weight":%s}'),
    ("/config", '{"queue_size":%s}'),
    ("/task/submit", '{"payload":{"function":"keep","args":[%s],"kwargs":{}}}'),
    ("/execute", '{"type":"keep","payload":{"value":%s},"timeout":5}'),
    ("/execute", '{"type":"keep","payload":{"value":1},"timeout":%s}'),
    ("/submit", '{"name":"keep","payload":{"value":%s},"priority":1}'),
    ("/submit", '{"name":"keep","payload":{"value":1},"priority":%s}'),
    ("/data-processing/start", '{"rows":%s}'),
]


@task
async def keep(value: object) -> bool:
    return value is not None


@task(name="task")
async def echo(id: str, weight: float) -> str:
    return id


@task(domain="data-processing")
async def process(rows: int) -> bool:
    return rows > 0


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        found: str = request.getfixturevalue("server").url
        return found
    return str(request.param).format(path=tmp_path)


async def asked(worker: Worker, method: str, path: str, body: str | None = None) -> Any:
    headers = {"Content-Type": "application/json"}
    answer = await worker.ask(method, path, data=body, headers=headers)
    assert answer.status < 500, (path, body, answer.text)
    return answer


@pytest.mark.parametrize("number", EDGES, ids=lambda n: f"{n:.3e}" if abs(n) < 10**99 else "huge")
async def test_a_number_is_taken_or_refused(url: str, number: int) -> None:
    async with serving(keep, echo, process, store=url) as worker:
        for method, path in PATHS:
            for text in (f"{number}", f"{number}.0"):
                answer = await asked(worker, method, path.format(text))
                is_list = "/v1/jobs?" in path and "cursor=" in path
                if is_list and (text != str(number) or not 0 <= number < 2**63):
                    assert answer.status == 422
                    assert "is not one that a list gave" in answer.document["detail"]
        for path, body in BODIES:
            await asked(worker, "POST", path, body % number)
        await worker.runtime.join()
        answer = await asked(worker, "POST", "/v1/jobs?wait_s=5", '{"task":"keep","args":[1]}')
        assert answer.document["result"] is True


async def test_a_cursor_is_checked_the_same_way_in_python(url: str) -> None:
    async with serving(keep, store=url) as worker:
        for cursor in (str(2**63), "9" * 100, "-1", "1.0", "٣", "", " 1"):
            with pytest.raises(InvalidJob, match="is not one that a list gave"):
                await worker.runtime.list_jobs(cursor=cursor)
        assert (await worker.runtime.list_jobs(cursor=str(2**63 - 1))).jobs == []


def test_more_tries_than_can_be_counted_are_refused() -> None:
    assert Retry(max_attempts=2**63 - 1).max_attempts == 2**63 - 1
    with pytest.raises(ConfigurationError, match=r"Retry\.max_attempts must be at most 9"):
        Retry(max_attempts=2**63)
