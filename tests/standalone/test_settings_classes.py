"""arq's options on our command line."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.support.arq_env import NEWEST, arq_python, ask, environment, start_our_worker
from tests.support.helpers import eventually
from tests.support.redis_server import RedisServer


def _command(*options: str) -> list[str]:
    return [arq_python(NEWEST), "-m", "worker_runtime", "run", "settings.BurstSettings", *options]


def test_a_settings_class_may_say_burst(server: RedisServer) -> None:
    done = subprocess.run(
        _command("-v", "--custom-log-dict", "settings.LOG_DICT"),
        env=environment(server.port),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert b"OWN Starting worker for 1 functions: add" in done.stderr


async def test_no_burst_wins_over_the_class(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log:
        worker = subprocess.Popen(_command("--no-burst"), env=environment(server.port), stderr=log)
    try:
        with server.client() as client:
            await eventually(lambda: bool(client.exists("arq:queue:health-check")), 30)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert "shutdown on SIGTERM" in path.read_text()


async def test_a_patient_worker_says_what_it_waits_for(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "log"
    worker = start_our_worker(NEWEST, server.port, "PatientSettings", log=path)
    try:
        [job_id] = ask(NEWEST, server.port, "enqueue", "sleep", 1, 2)
        with server.client() as client:
            await eventually(lambda: client.llen("starts") == 1, 30)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
            assert client.exists(f"arq:result:{job_id}")
    finally:
        worker.kill()
        worker.wait()
    text = path.read_text()
    assert "Setting allow_pick_jobs to `False`" in text
    assert "shutdown on SIGTERM ◆ 0 jobs complete ◆ 0 failed ◆ 0 retries ◆ 1 to be comp" in text
    assert "shutdown on SIGTERM, wait complete ◆ 1 jobs complete ◆ 0 failed" in text
