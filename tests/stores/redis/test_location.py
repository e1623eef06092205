"""Where Redis is: URLs, TLS, Unix sockets, Sentinel; what cannot be used is refused clearly."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support import redis_server
from tests.support.helpers import eventually, free_port
from tests.support.redis_server import RedisServer, redis_binary
from worker_runtime import ConfigurationError, Runtime, task
from worker_runtime.arq import RedisSettings, create_pool
from worker_runtime.arq.worker import ArqWorker
from worker_runtime.stores.redis.location import RedisLocation, close_client
from worker_runtime.stores.redis.store import RedisStore


@task
async def double(n: int) -> int:
    return 2 * n


async def _works(url: str) -> None:
    async with Runtime([double], store=url) as runtime:
        assert await (await runtime.enqueue(double, 2)).result(timeout_s=10) == 4


def test_a_password_may_be_percent_encoded() -> None:
    found = RedisLocation.from_url("redis://user%40x:p%40ss%2Fword@host:1/2")
    assert (found.username, found.password) == ("user@x", "p@ss/word")
    assert (found.host, found.port, found.database) == ("host", 1, 2)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://u:secret@host:port/0", "must be a number"),
        ("redis://u:secret@host:99999/0", "must be a number"),
        ("redis://u:secret@host/zero", "must be a number"),
        (
            "rediss://u:secret@host/0?ssl_cert_reqs=perhaps",
            "one of none, optional, required, not .perhaps",
        ),
        ("redis+cluster://u:secret@host/0", "redis://, rediss:// or unix://"),
        ("redis://u:secret@host/0?serialiser=json", "serialiser"),
        ("redis://u:secret@host/0?ssl_cert_reqs=none", "rediss://"),
        ("redis://u:secret@host/0?serializer=yaml", "pickle, msgpack or json"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        RedisStore.from_url(url)
    assert "secret" not in str(raised.value)


def test_tls_options_may_stand_in_the_url() -> None:
    found = RedisStore.from_url(
        "rediss://host/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem&ssl_check_hostname=true"
    ).location
    assert found.ssl
    assert (found.ssl_cert_reqs, found.ssl_ca_certs) == ("none", "/ca.pem")
    assert found.ssl_check_hostname


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the PATH")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {"key": str(key), "certificate": str(certificate)}


async def test_tls(own_server: Any, certificates: dict[str, str]) -> None:
    port = free_port()
    try:
        own_server(
            arguments=f"--tls-port {port} --tls-auth-clients no "
            f"--tls-key-file {certificates['key']} --tls-cert-file {certificates['certificate']}"
        )
    except AssertionError:
        pytest.skip("this redis-server was built without TLS")
    ca = certificates["certificate"]
    await _works(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}")
    await _works(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none")
    with pytest.raises(ConfigurationError, match="CERTIFICATE_VERIFY_FAILED"):
        await _works(f"rediss://127.0.0.1:{port}/0")


async def test_a_unix_socket(own_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    own_server(arguments=f"--unixsocket {path}")
    await _works(f"unix://{path}?db=1")


async def test_sentinel_finds_the_master_also_after_a_failover(
    own_server: Any, tmp_path: Path
) -> None:
    master: RedisServer = own_server()
    replica: RedisServer = own_server(arguments=f"--replicaof 127.0.0.1 {master.port}")
    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor plant 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds plant 500\nsentinel failover-timeout plant 2000\n"
    )
    sentinel = subprocess.Popen(
        [redis_binary(), str(config), "--sentinel"], stdout=subprocess.DEVNULL
    )
    try:
        settings = RedisSettings(
            host=[("127.0.0.1", port)],
            sentinel=True,
            sentinel_master="plant",
            conn_retries=50,
            conn_retry_delay=0.2,
        )

        async def add(ctx: dict[str, Any], a: int) -> int:
            return a + 1

        add.__qualname__ = "add"
        with replica.client() as client:
            await eventually(lambda: client.info("replication")["master_link_status"] == "up", 20)
        with redis.Redis(port=port) as client:  # it must know the replica before it can choose it

            def knows_the_replica() -> bool:
                try:
                    return bool(client.sentinel_slaves("plant"))
                except redis.RedisError:
                    return False

            await eventually(knows_the_replica, 30)
        async with ArqWorker({"functions": [add], "redis_settings": settings, "lease_s": 2}):
            pool = await create_pool(settings)
            job = await pool.enqueue_job("add", 1)
            assert job is not None
            assert await job.result(timeout=20) == 2
            master.kill()
            with replica.client() as client:
                await eventually(lambda: client.info("replication")["role"] == "master", 40)

            async def accepted() -> Any:
                try:
                    return await pool.enqueue_job("add", 2, _job_id="after")
                except Exception:  # whatever redis-py raises while the master changes
                    return None

            await eventually(accepted, 40)
            with replica.client() as client:
                await eventually(lambda: bool(client.exists("arq:result:after")), 40)
            await close_client(pool)
    finally:
        sentinel.kill()
        sentinel.wait()


def _low_port() -> int:
    """A cluster's nodes talk to each other on the port 10,000 above."""
    ports = iter(free_port, 0)
    return next(port for port in ports if port < 55_000 and _is_free(port + 10_000))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_cluster_is_refused(own_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "free_port", _low_port)
    server: RedisServer = own_server(arguments="--cluster-enabled yes")
    with pytest.raises(ConfigurationError, match="a Redis Cluster cannot be used"):
        await _works(server.url)
