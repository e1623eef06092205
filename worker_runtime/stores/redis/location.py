"""One Redis or Valkey server: where it is, how to connect to it, and whether it can keep jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import redis as sync_redis
import redis.asyncio as async_redis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.sentinel import Sentinel

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.bounded import masked
from worker_runtime.stores.redis.script import REDIS_ERRORS, is_passing

__all__ = [
    "RedisLocation",
    "async_redis",
    "check_server",
    "close_client",
    "drop_connections",
    "end_tasks",
]

logger = logging.getLogger("worker_runtime.redis")

# A script command waits for its answer at most this long; a stall of Redis shorter than that loses
# nothing, and a peer that vanished without a word is noticed.
ANSWER_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
_TLS_OPTIONS = (
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
)
_CERTIFICATES = ("none", "optional", "required")


class RedisLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is and how to sign in; the fields of arq's RedisSettings."""

    host: str | list[tuple[str, int]] = "localhost"
    port: int = 6379
    unix_socket_path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = None
    ssl: bool = False
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_cert_reqs: str = "required"
    ssl_ca_certs: str | None = None
    ssl_ca_data: str | None = None
    ssl_check_hostname: bool = False
    conn_timeout: float = CONNECT_TIMEOUT_S
    conn_retries: int = 5
    conn_retry_delay: float = 1.0
    max_connections: int | None = None
    sentinel: bool = False
    sentinel_master: str = "mymaster"

    def __post_init__(self) -> None:
        if self.sentinel == isinstance(self.host, str):
            raise ConfigurationError(
                "redis host: a list of (host, port) goes with sentinel=True, and only with it"
            )

    @classmethod
    def from_url(cls, url: str, *, is_strict: bool = True) -> RedisLocation:
        """From `redis://`, `rediss://` or `unix://`, as arq's `from_dsn`, with TLS options as
        redis-py names them (`?ssl_cert_reqs=none`). Raises ConfigurationError; `is_strict`: for
        unknown options too. No message has the password."""
        shown = masked(url).partition("?")[0]
        try:
            parts = urlsplit(url)
        except ValueError:  # whose words may have the password
            raise ConfigurationError(f"store {shown}: this is no URL") from None
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ConfigurationError(f"store {shown}: must be redis://, rediss:// or unix://")
        options = dict(parse_qsl(parts.query))
        number = options.pop("db", "") or ("" if parts.scheme == "unix" else parts.path[1:])
        tls = _tls_options(options, has_tls=parts.scheme == "rediss", shown=shown)
        if options and is_strict:
            raise ConfigurationError(
                f"store {shown}: unknown options: {', '.join(options)}; known are db, serializer, "
                f"{', '.join(_TLS_OPTIONS)}"
            )
        return cls(
            host=parts.hostname or "localhost",
            port=_whole(lambda: parts.port or 6379, f"store {shown}: the port"),
            ssl=parts.scheme == "rediss",
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            database=_whole(lambda: int(number or 0), f"store {shown}: the database"),
            unix_socket_path=unquote(parts.path) if parts.scheme == "unix" else None,
            **tls,
        )

    @classmethod
    def from_attributes(cls, source: object) -> RedisLocation:
        """From an object with arq's attribute names; what it does not have keeps its default."""
        found = {f: getattr(source, f) for f in cls.__struct_fields__ if hasattr(source, f)}
        try:
            return msgspec.convert(found, cls)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"redis_settings: {error}") from None

    @property
    def shown(self) -> str:
        """For people and logs: without the password."""
        if self.unix_socket_path:
            return f"unix://{self.unix_socket_path}"
        if not isinstance(self.host, str):
            return f"sentinel master {self.sentinel_master}"
        return f"redis://{self.host}:{self.port}/{self.database}"

    def connect(self, kind: type[Any] | None = None, **options: Any) -> Any:
        """An asyncio client, of `kind` where given; it connects on its first command."""
        kind = kind or async_redis.Redis
        if self.sentinel:
            # A pool that follows the master has no such mode, and hands options to connections.
            options.pop("single_connection_client", None)
            sentinel = AsyncSentinel(self.host, **self._tls())  # type: ignore[no-untyped-call]
            return sentinel.master_for(
                self.sentinel_master, redis_class=kind, **self._common(), **options
            )
        return kind(**self._address(), **self._tls(), **self._common(), **options)

    def connect_blocking(self, answer_timeout_s: float) -> Any:
        """A blocking client, for a thread of its own."""
        options = self._common() | {"socket_timeout": answer_timeout_s}
        if self.sentinel:
            sentinel = Sentinel(self.host, **self._tls())  # type: ignore[no-untyped-call]
            return sentinel.master_for(self.sentinel_master, **options)  # type: ignore[no-untyped-call]
        return sync_redis.Redis(**self._address(), **self._tls(), **options)

    def _address(self) -> dict[str, Any]:
        if self.unix_socket_path:
            return {"unix_socket_path": self.unix_socket_path}
        return {"host": self.host, "port": self.port}

    def _tls(self) -> dict[str, Any]:
        if not self.ssl:
            return {}
        if self.ssl_cert_reqs not in _CERTIFICATES:
            raise ConfigurationError(
                f"ssl_cert_reqs={self.ssl_cert_reqs!r}: must be one of {', '.join(_CERTIFICATES)}"
            )
        return {
            "ssl": True,
            "ssl_keyfile": self.ssl_keyfile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_cert_reqs": self.ssl_cert_reqs,
            "ssl_ca_certs": self.ssl_ca_certs,
            "ssl_ca_data": self.ssl_ca_data,
            "ssl_check_hostname": self.ssl_check_hostname,
        }

    def _common(self) -> dict[str, Any]:
        keepalive = {} if self.unix_socket_path else {"socket_keepalive": True}
        return {
            "db": self.database,
            "username": self.username,
            "password": self.password,
            "socket_connect_timeout": self.conn_timeout,
            "socket_timeout": ANSWER_TIMEOUT_S,
            "max_connections": self.max_connections,
            **keepalive,
        }


def _whole(read: Callable[[], int], what: str) -> int:
    try:
        return read()
    except ValueError:
        raise ConfigurationError(f"{what} must be a number") from None


def _tls_options(options: dict[str, str], *, has_tls: bool, shown: str) -> dict[str, Any]:
    """The TLS options of a URL, taken out of `options`. Raises ConfigurationError."""
    found: dict[str, Any] = {n: options.pop(n) for n in _TLS_OPTIONS if n in options}
    if found and not has_tls:
        raise ConfigurationError(
            f"store {shown}: {', '.join(found)} means something with rediss:// only"
        )
    wanted = found.get("ssl_cert_reqs", "none")
    if wanted not in _CERTIFICATES:
        raise ConfigurationError(
            f"store {shown}: ssl_cert_reqs must be one of {', '.join(_CERTIFICATES)}, "
            f"not {wanted[:40]!r}"
        )
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = found["ssl_check_hostname"].lower() in ("1", "true", "yes")
    return found


async def check_server(location: RedisLocation) -> None:
    """Raises ConfigurationError for a server that is not there, too old, or part of a Cluster."""
    client = location.connect()
    try:
        info = await _patiently(client.info, location)
    finally:
        await close_client(client)
    if int(info.get("cluster_enabled", 0)):
        raise ConfigurationError(
            f"store {location.shown}: a Redis Cluster cannot be used, because arq's keys "
            "have no hash tag and one job's keys would lie on several nodes; use one server"
        )
    version = str(info.get("redis_version", "0"))
    if int(version.split(".")[0]) < 5:
        raise ConfigurationError(
            f"store {location.shown}: Redis 5 or newer is needed, not {version}"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        logger.warning(
            "store %s: maxmemory-policy is %s, so Redis may evict accepted jobs when its "
            "memory is full; noeviction keeps them",
            location.shown,
            policy,
        )


async def _patiently(call: Callable[[], Awaitable[Any]], location: RedisLocation) -> Any:
    """`call()`, tried again while the server is not there yet. Raises ConfigurationError."""
    left = location.conn_retries
    while True:
        try:
            return await call()
        except REDIS_ERRORS as error:
            if not left or not is_passing(error):
                raise ConfigurationError(f"store {location.shown}: {error}") from None
            logger.warning("%s: %s, %d retries remaining...", location.shown, error, left)
        left -= 1
        await asyncio.sleep(location.conn_retry_delay)


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended. Once is not enough: redis-py and `wait_for` of Python
    3.11 swallow a cancel that arrives together with an answer."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


async def close_client(client: Any) -> None:
    """Close an asyncio client, with those that ask the Sentinels for it; redis-py 4 has another
    name for it than 5."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    for each in (client, *(manager.sentinels if manager is not None else ())):
        await (each.aclose() if hasattr(each, "aclose") else each.close())


async def drop_connections(client: Any) -> None:
    """Connect anew on the next command: after a failover the old peer is a replica."""
    try:
        await client.connection_pool.disconnect(inuse_connections=True)
    except REDIS_ERRORS:
        pass  # it is gone already
