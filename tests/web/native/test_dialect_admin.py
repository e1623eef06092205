"""The native dialect: unique jobs and jobs after others, attempts, dead letters, cron."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fleet_worker import Worker, serving
from worker_runtime import Limit, cron, task


class Gate:
    """What the waiting task of one test waits for."""

    event: asyncio.Event


@task(per_key=Limit(concurrency=1))
async def wait() -> str:
    await Gate.event.wait()
    return "waited"


@task
async def fail(n: int = 0) -> None:
    raise ValueError(f"no luck {n}")


@cron("0 3 * * *", tz="Europe/Berlin")
@task
async def nightly() -> None: ...


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    Gate.event = asyncio.Event()
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with serving(wait, fail, nightly, store=url) as served:
        yield served
        Gate.event.set()


async def fail_some(worker: Worker, count: int) -> list[str]:
    ids = []
    for n in range(count):
        done = await worker.ask("POST", "/v1/jobs?wait_s=5", {"task": "fail", "args": [n]})
        assert done.document["state"] == "failed"
        ids.append(done.document["id"])
    return ids


async def test_a_unique_job_is_accepted_once(worker: Worker) -> None:
    body = {"task": "wait", "unique_key": "k", "unique_for_s": 60}
    first = await worker.ask("POST", "/v1/jobs", body)
    second = await worker.ask("POST", "/v1/jobs", body)
    batch = await worker.ask("POST", "/v1/jobs/batch", [body, {"task": "wait"}])
    ids = [first.document["id"], second.document["id"], batch.document[0]["job"]["id"]]
    assert len(set(ids)) == 1
    assert batch.document[1]["job"]["id"] != ids[0]
    refused = await worker.ask("POST", "/v1/jobs", {"task": "wait", "unique_for_s": 60})
    assert (refused.status, refused.document["code"]) == (422, "invalid_job")


async def test_a_key_names_whose_limit_counts(worker: Worker) -> None:
    bodies = [{"task": "wait", "key": key} for key in ("a", "a", "b")]
    answers = [await worker.ask("POST", "/v1/jobs", body) for body in bodies]
    jobs = [await worker.runtime.job(answer.document["id"]) for answer in answers]
    assert [str(job.state) for job in jobs] == ["running", "queued", "running"]


async def test_a_job_waits_for_those_it_comes_after(worker: Worker) -> None:
    first = (await worker.ask("POST", "/v1/jobs", {"task": "wait"})).document["id"]
    body = {"task": "wait", "after": [first]}
    after = await worker.ask("POST", "/v1/jobs", body)
    batch = await worker.ask("POST", "/v1/jobs/batch", [body, {"task": "wait", "after": ["x"]}])
    assert after.document["state"] == "scheduled"
    assert [item["status"] for item in batch.document] == [202, 422]
    assert batch.document[1]["problem"]["detail"] == "`after`: no job 'x' is kept"
    Gate.event.set()
    done = await worker.ask("GET", f"/v1/jobs/{after.document['id']}?wait_s=5")
    assert done.document["result"] == "waited"


async def test_a_job_is_shown_with_its_attempts(worker: Worker) -> None:
    [job_id] = await fail_some(worker, 1)
    shown = (await worker.ask("GET", f"/v1/jobs/{job_id}")).document
    [attempt] = shown["attempts"]
    assert (attempt["number"], attempt["reason"], attempt["error"]) == (1, "error", "no luck 0")
    assert attempt["started_at"] <= attempt["ended_at"]
    assert attempt["traceback"] is None, "it would tell an outsider how the code is laid out"


async def test_an_ended_job_is_purged_and_an_unfinished_one_is_not(worker: Worker) -> None:
    [job_id] = await fail_some(worker, 1)
    waits = (await worker.ask("POST", "/v1/jobs", {"task": "wait"})).document["id"]
    assert (await worker.ask("DELETE", f"/v1/jobs/{job_id}?purge=true")).status == 204
    assert (await worker.ask("GET", f"/v1/jobs/{job_id}")).status == 404
    assert (await worker.ask("DELETE", f"/v1/jobs/{job_id}?purge=true")).status == 404
    refused = await worker.ask("DELETE", f"/v1/jobs/{waits}?purge=true")
    assert (refused.status, refused.document["code"]) == (409, "invalid_transition")
    unclear = await worker.ask("DELETE", f"/v1/jobs/{waits}?purge=yes")
    assert (unclear.status, unclear.document["code"]) == (422, "invalid_query")


async def test_many_are_retried_and_deleted_by_filter(worker: Worker) -> None:
    failed = await fail_some(worker, 3)
    some = await worker.ask("POST", "/v1/jobs/retry?task=fail&limit=2")
    assert (some.status, sorted(some.document["jobs"])) == (202, sorted(failed[1:]))
    assert some.document["has_more"] is True
    await worker.runtime.join()
    unclear = await worker.ask("DELETE", "/v1/jobs")
    assert (unclear.status, unclear.document["code"]) == (422, "invalid_query")
    wrong = await worker.ask("DELETE", "/v1/jobs?state=running")
    assert (wrong.status, wrong.document["code"]) == (422, "invalid_job")
    unknown = await worker.ask("POST", "/v1/jobs/retry?cursor=1")
    assert unknown.status == 422
    gone = await worker.ask("DELETE", "/v1/jobs?state=failed&queue=default")
    assert (gone.status, sorted(gone.document["jobs"])) == (200, sorted(failed))


async def test_cron_is_listed(worker: Worker) -> None:
    [schedule] = (await worker.ask("GET", "/v1/cron")).document["cron"]
    assert (schedule["name"], schedule["zone"], schedule["missed"]) == (
        "nightly",
        "Europe/Berlin",
        "once",
    )
    assert schedule["next_at"] is not None
