"""Any value or exception as bounded bytes or text: saying it must not raise or fill memory."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

_FRAMES_MAX = 20
_msgpack = msgspec.msgpack.Encoder()


def error_text(error: BaseException, bytes_max: int) -> str:
    """`str(error)`, cut to `bytes_max` bytes of UTF-8, or a stand-in where it raises."""
    try:
        text = str(error)
    except BaseException as fault:
        return f"<{type(error).__name__} whose text raises {type(fault).__name__}>"
    return cut(text, bytes_max)


def traceback_text(error: BaseException, bytes_max: int) -> str:
    """The innermost frames of `error`'s traceback, without the exception's own text, cut to fit."""
    try:
        frames = traceback.extract_tb(error.__traceback__, limit=-_FRAMES_MAX)
        return cut("".join(traceback.format_list(frames)), bytes_max)
    except Exception as fault:
        return f"<no traceback: {type(fault).__name__}>"


def cut(text: str, bytes_max: int) -> str:
    """`text` as valid UTF-8 of at most `bytes_max` bytes, an ellipsis showing where it was cut."""
    head = text[:bytes_max]
    encoded = head.encode("utf-8", "replace")
    if len(text) <= bytes_max and len(encoded) <= bytes_max:
        return encoded.decode("utf-8")
    return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "…"


class Unencodable(Exception):
    """The value has no encoding, or a larger one than is allowed."""


def encode_value(value: Any, bytes_max: int) -> bytes:
    """`value` as MessagePack, at most `bytes_max` bytes. Raises Unencodable, saying why."""
    try:
        encoded = _msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise Unencodable(f"cannot be encoded: {str(error)[:500]}") from None
    except Exception as error:  # a user type's own hook or property may raise anything
        raise Unencodable(f"cannot be encoded: {type(error).__name__}") from None
    if len(encoded) > bytes_max:
        raise Unencodable(f"takes {len(encoded)} bytes encoded, {bytes_max} are allowed")
    return encoded
