"""How arq's log lines show values, bounded in cost and length, and what they say of Redis."""

from __future__ import annotations

import logging
import reprlib
from typing import Any

from worker_runtime.arq.client import ArqRedis
from worker_runtime.stores.redis.script import REDIS_ERRORS

logger = logging.getLogger("arq.worker")

_SHOWN_CHARS = 80


def bounded_repr() -> reprlib.Repr:
    """A repr whose cost is bounded: a small pickle can hold a value with an endless one."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 4 * _SHOWN_CHARS
    shown.maxdict = shown.maxlist = shown.maxtuple = shown.maxset = 20
    return shown


def truncate(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def extra_of(error: Any) -> Any:
    """What an exception wants to have logged with it, as arq asks for it."""
    extra = getattr(error, "extra", None)
    return extra() if callable(extra) else extra


async def log_redis_info(pool: ArqRedis) -> None:
    try:
        info, keys = await pool.info(), await pool.dbsize()
    except REDIS_ERRORS as error:
        logger.warning("redis info: %s", error)
        return
    logger.info(
        "redis_version=%s mem_usage=%s clients_connected=%s db_keys=%s",
        info.get("redis_version", "?"),
        info.get("used_memory_human", "?"),
        info.get("connected_clients", "?"),
        keys,
    )
