"""Whether a worker of a settings class lives, as its health key in Redis says."""

from __future__ import annotations

import logging

from worker_runtime.arq.settings import ArqSettings
from worker_runtime.stores.redis.location import close_client
from worker_runtime.stores.redis.script import REDIS_ERRORS
from worker_runtime.stores.redis.wire.layout import HEALTH_SUFFIX

logger = logging.getLogger("arq.worker")


async def has_worker(settings: ArqSettings) -> bool:
    """Whether the health key exists; logged in arq's words."""
    client = settings.redis.connect()
    try:
        found = await client.get(settings.health_check_key or settings.queue_name + HEALTH_SUFFIX)
    except REDIS_ERRORS as error:
        logger.warning("Health check failed: %s", error)
        return False
    finally:
        await close_client(client)
    if not found:
        logger.warning("Health check failed: no health check sentinel value found")
        return False
    logger.info("Health check successful: %s", found)
    return True
