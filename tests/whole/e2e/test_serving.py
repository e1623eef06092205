"""A worker in a process of its own: it starts, works, and explains what it cannot start with."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest

from tests.support.helpers import ROOT, eventually, free_port, start_server_process
from worker_runtime import Runtime

TARGET = "tests.whole.e2e.served_tasks"


def worker_runtime(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    command = [sys.executable, "-m", "worker_runtime", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=40
    )


def refusal(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """The one line with which the worker refuses to start."""
    done = worker_runtime("run", *arguments, env=env)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("worker-runtime: ")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed commands need curl")
@pytest.mark.parametrize("env", [{}, {"WORKER_TOKEN": "a secret"}])
async def test_the_commands_it_prints_work_as_printed(env: dict[str, str]) -> None:
    async with start_server_process(env=env) as server:
        commands = re.findall(r"^ +(curl .*)$", server.log, re.MULTILINE)
        assert len(commands) == 3
        shell = {**os.environ, **env}
        outputs = [
            subprocess.run(
                command, shell=True, env=shell, capture_output=True, text=True, check=True
            ).stdout
            for command in commands
        ]
        assert '"result":5' in outputs[0]
        assert '"count_primes"' in outputs[1]
        assert '"add"' in outputs[2]
        assert await server.stop() == 0


async def test_the_collector_is_set_in_a_process_of_our_own_only() -> None:
    job = {"task": "collector"}
    async with (
        start_server_process(TARGET) as server,
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/v1/jobs?wait_s=20", json=job) as answer,
    ):
        frozen, young_max = (await answer.json())["result"]
    assert (frozen > 10_000, young_max) == (True, 10_000)
    before = gc.get_freeze_count(), gc.get_threshold()
    async with Runtime([]):
        assert (gc.get_freeze_count(), gc.get_threshold()) == before


async def test_a_stopped_worker_leaves_no_child_process() -> None:
    async with start_server_process() as server, aiohttp.ClientSession() as http:
        body = {"task": "digest", "args": ["text", 3]}
        async with http.post(f"{server.url}/v1/jobs?wait_s=20", json=body) as answer:
            assert len((await answer.json())["result"]) == 64
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        assert await server.stop() == 0
        await eventually(lambda: not any(child.is_running() for child in children))


async def test_port_zero_is_a_free_port_that_the_log_names() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "worker_runtime", "run", TARGET, "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"listening on (http://127\.0\.0\.1:(\d+))$", line)
            assert found is not None, line
            assert int(found[2]) > 0
            async with aiohttp.ClientSession() as http, http.get(f"{found[1]}/livez") as answer:
                assert answer.status == 200
        finally:
            process.terminate()
        assert process.wait(30) == 0


async def test_metrics_port_serves_metrics_and_nothing_else() -> None:
    port = free_port()
    async with (
        start_server_process(TARGET, env={"METRICS_PORT": str(port)}) as server,
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert "worker_runtime_jobs_accepted_total" in await answer.text()
        async with http.get(f"http://127.0.0.1:{port}/v1/jobs") as answer:
            assert answer.status == 404
        async with http.get(f"{server.url}/metrics") as answer:
            assert "worker_runtime_jobs_accepted_total" in await answer.text()
        assert await server.stop() == 0


async def test_a_token_guards_the_metrics_port_too() -> None:
    port = free_port()
    env = {"METRICS_PORT": str(port), "WORKER_TOKEN": "secret"}
    async with start_server_process(TARGET, env=env), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}/metrics"
        async with http.get(url) as answer:
            assert answer.status == 401
        async with http.get(url, headers={"Authorization": "Bearer secret"}) as answer:
            assert answer.status == 200


async def test_what_is_no_http_is_a_problem_on_both_ports_and_not_logged() -> None:
    metrics_port = free_port()
    async with start_server_process(TARGET, env={"METRICS_PORT": str(metrics_port)}) as server:
        before = server.log
        for port in (server.port, metrics_port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GARBAGE\r\n\r\n")
            received = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await writer.wait_closed()
            assert b"application/problem+json" in received
            assert b"malformed_request" in received
            async with (  # and so is what no route matches (B32e)
                aiohttp.ClientSession() as http,
                http.delete(f"http://127.0.0.1:{port}/nope") as answer,
            ):
                assert (answer.status, answer.content_type) == (404, "application/problem+json")
        assert server.log == before
        assert await server.stop() == 0


async def test_json_logs_are_json_lines() -> None:
    async with start_server_process(env={"LOG_FORMAT": "json"}) as server:
        assert await server.stop() == 0
        messages = [msgspec.json.decode(line)["message"] for line in server.log.splitlines()]
    assert "listening on" in messages[0]
    assert "stopped" in messages[-1]


async def test_check_tells_health_by_its_exit_code() -> None:
    port = free_port()
    nobody = worker_runtime("run", "--check", "--port", str(port))
    assert (nobody.returncode, "no worker answers" in nobody.stderr) == (1, True)
    async with start_server_process(TARGET, port=port) as server:
        for arguments, env in [
            (["--port", str(port)], {}),
            ([], {"PORT": str(port)}),
            (["--port", str(port)], {"WORKER_HOST": "0.0.0.0"}),
            (["does_not_import"], {"PORT": str(port)}),
        ]:
            done = worker_runtime("run", "--check", *arguments, env=env)
            assert done.returncode == 0, done
        assert await server.stop() == 0
    assert worker_runtime("run", "--check", "--port", str(port)).returncode == 1


def test_check_does_not_wait_for_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = worker_runtime("run", "--check", "--port", str(silent.getsockname()[1]))
    assert done.returncode == 1
    assert "timed out" in done.stderr


def test_check_with_wrong_settings_is_not_healthy() -> None:
    assert worker_runtime("run", "--check", env={"PORT": "http"}).returncode == 1


def test_burst_runs_what_waits_and_exits() -> None:
    done = worker_runtime("run", "tests.whole.e2e.burst_target:make", "--burst")
    assert (done.returncode, done.stdout) == (0, "burst: 0\nburst: 1\nburst: 2\n"), done


def test_a_busy_port_is_refused_before_anything_runs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        assert f"port {port} on 127.0.0.1 is in use" in refusal(TARGET, "--port", port)


def test_a_wrong_value_is_refused_in_one_line() -> None:
    """The other values: tests/cli/test_commands.py, without a process for each."""
    assert "PORT='http'" in refusal(env={"PORT": "http"})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    assert "WORKER_TOKEN is not set" in refusal("--host", host)


async def test_watch_restarts_on_a_change(tmp_path: Path) -> None:
    module = tmp_path / "watched.py"
    source = "from worker_runtime import task\n@task\nasync def {name}() -> None: ...\n"
    module.write_text(source.format(name="before"))
    async with (
        start_server_process("watched", "--watch", str(tmp_path), cwd=tmp_path) as server,
        aiohttp.ClientSession() as http,
    ):

        async def serves(name: str) -> bool:
            try:
                async with http.get(f"{server.url}/metrics") as answer:
                    return f'task="{name}"' in await answer.text()
            except aiohttp.ClientError:
                return False

        await eventually(lambda: serves("before"))
        module.write_text(source.format(name="after"))
        await eventually(lambda: serves("after"))
        module.write_text("this is no Python")
        await eventually(lambda: "cannot import 'watched': SyntaxError" in server.log)
        module.write_text(source.format(name="again"))
        await eventually(lambda: serves("again"))
        assert await server.stop() == 0
        assert server.log.count("listening on") == 3
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


async def test_a_killed_supervisor_leaves_no_worker(tmp_path: Path) -> None:
    (tmp_path / "watched.py").write_text(
        "from worker_runtime import task\n@task\nasync def one() -> None: ...\n"
    )
    arguments = ("watched", "--watch", str(tmp_path))
    async with start_server_process(*arguments, cwd=tmp_path) as server:
        (worker,) = psutil.Process(server.process.pid).children()
        server.signal(signal.SIGKILL)
        await eventually(lambda: not worker.is_running())


@pytest.mark.parametrize("name", ["say_and_fail", "print_and_fail"])
async def test_what_a_job_says_is_no_line_of_the_log(name: str) -> None:
    """B27"""
    forged = "2026-01-01 00:00:00.000 INFO    worker_runtime.server: forged"
    text = f"no\n{forged}\r{forged}\x1b[2J\u2028{forged}"
    async with start_server_process(TARGET) as server, aiohttp.ClientSession() as http:
        body = {"task": name, "args": [text]}
        async with http.post(f"{server.url}/v1/jobs?wait_s=20", json=body) as answer:
            assert (await answer.json())["error"] == text  # who asks gets it as it is
        async with http.get(f"{server.url}/v1/jobs/%0a{forged[-6:]}") as answer:
            assert answer.status == 404
        await eventually(lambda: "failed, error: ValueError: no" in server.log)
        assert await server.stop() == 0
        lines = server.log.split("\n")
    telling = [line for line in lines if "forged" in line]
    assert len(telling) >= (1 if name == "say_and_fail" else 3)
    for line in telling:
        assert not line.startswith(forged)
        assert all(c.isprintable() for c in line)
        assert "\\x1b[2J" in line or name == "print_and_fail"
    summary = [line for line in telling if "failed, error: ValueError" in line]
    assert len(summary) == 1
    assert ascii(text)[1:-1] in summary[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user:hunter2@db.example/jobs",
        "redis:user:hunter2@db.example",
        "redis://:hunter2",
        "redis://:hunter2@[db.example",
        "redis://:hun/hunter2@db.example:x",
        "redis://:h@hunter2@db.example/x",
        "redis://:hunter2\u2100@db.example",
        "amqp://db.example?password=hunter2",
        "sqlite://user:hunter2@db.example/jobs.db",
        "sqlite:///jobs.db?token=hunter2",
    ],
)
def test_the_password_of_a_store_is_not_printed(url: str) -> None:
    """B28"""
    shown = refusal(env={"WORKER_STORE": url})
    assert "hunter2" not in shown
    assert "store" in shown
    done = worker_runtime("jobs", "list", "--store", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("worker-runtime: store")
    assert "hunter2" not in done.stderr


def test_no_variable_with_a_password_is_printed_when_it_is_wrong() -> None:
    """B28"""
    for env in (
        {"WORKER_BACKEND_URL": "ftp://user:hunter2@backend.example"},
        {"WORKER_BACKEND_URL": "http://a:hunter2@b", "KTRDR_API_URL": "http://a:hunter2@c"},
    ):
        assert "hunter2" not in refusal(env=env)


async def test_children_do_not_have_the_secrets_of_the_worker(tmp_path: Path) -> None:
    """B28"""
    secrets = {
        "WORKER_TOKEN": "a secret of some length",
        "WORKER_STORE": f"sqlite:///{tmp_path}/hunter2.db",
    }
    env = {**secrets, "WORKER_NAME": "theirs-too"}
    headers = {"Authorization": f"Bearer {secrets['WORKER_TOKEN']}"}
    async with start_server_process(TARGET, env=env) as server:
        async with aiohttp.ClientSession(headers=headers) as http:
            url, body = f"{server.url}/v1/jobs?wait_s=20", {"task": "environment"}
            async with http.post(url, json=body) as answer:
                theirs = (await answer.json())["result"]
        assert theirs["WORKER_NAME"] == "theirs-too"
        assert secrets.keys().isdisjoint(theirs)
        for child in psutil.Process(server.process.pid).children(recursive=True):
            assert secrets.keys().isdisjoint(child.environ())
        assert await server.stop() == 0
        assert "hunter2" not in server.log.replace(str(tmp_path), "")
