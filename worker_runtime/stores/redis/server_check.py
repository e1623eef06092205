"""Is this a Redis that jobs can be kept in?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.redis.location import RedisLocation, close_client, exceptions, is_passing

logger = logging.getLogger("worker_runtime.redis")


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
        except (exceptions.RedisError, OSError) as error:
            if not left or not is_passing(error):
                raise ConfigurationError(f"store {location.shown}: {error}") from None
            logger.warning("%s: %s, %d retries remaining...", location.shown, error, left)
        left -= 1
        await asyncio.sleep(location.conn_retry_delay)
