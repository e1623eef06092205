"""Calls of this package's Lua scripts, and which errors of a call pass by themselves."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Iterable
from typing import Any, Protocol

from redis import exceptions

REDIS_ERRORS = (exceptions.RedisError, OSError)
"""What a call of Redis raises when it fails."""

_PASSING_WORDS = ("READONLY", "LOADING", "MASTERDOWN", "OOM", "BUSY", "NOREPLICAS", "MISCONF")


class _Client(Protocol):
    def execute_command(self, *args: Any, **options: Any) -> Any: ...


class Script:
    """A Lua script of this package, sent once per server and then called by its hash."""

    def __init__(self, name: str) -> None:
        self.text = _script_text(name)
        self._hash = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def call(self, client: _Client, *args: Any) -> Any:
        """Run it. A server that was restarted forgets scripts: then the text is sent again."""
        try:
            return await client.execute_command("EVALSHA", self._hash, 0, *args)
        except exceptions.NoScriptError:
            return await client.execute_command("EVAL", self.text, 0, *args)

    def call_blocking(self, client: _Client, *args: Any) -> Any:
        try:
            return client.execute_command("EVALSHA", self._hash, 0, *args)
        except exceptions.NoScriptError:
            return client.execute_command("EVAL", self.text, 0, *args)


def pack(fields: Iterable[str | bytes]) -> bytes:
    """Texts in one argument, each behind its length (4 bytes, little endian): a command with a
    thousand arguments costs the client more than the script costs the server."""
    parts: list[bytes] = []
    for field in fields:
        data = field if isinstance(field, bytes) else field.encode()
        parts.append(len(data).to_bytes(4, "little"))
        parts.append(data)
    return b"".join(parts)


@functools.cache
def _script_text(name: str) -> str:
    folder = importlib.resources.files("worker_runtime.stores.redis") / "lua"
    return (folder / f"{name}.lua").read_text(encoding="utf-8")


def is_passing(error: BaseException) -> bool:
    """Whether an error says that Redis cannot now, rather than that the command is wrong."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return False
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return True
    text = str(error)
    return isinstance(error, exceptions.ResponseError) and (
        isinstance(error, exceptions.ReadOnlyError)
        or text.startswith(_PASSING_WORDS)
        or "command not allowed when used memory" in text
        or "-READONLY" in text
        or "-OOM" in text
    )


def may_have_happened(error: BaseException) -> bool:
    """Whether a command that failed so may have been executed all the same."""
    return not isinstance(error, exceptions.ResponseError)
