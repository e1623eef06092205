"""How values leave this process: MessagePack and JSON through msgspec, and what bounds them."""

from __future__ import annotations

from typing import Any

import msgspec

_msgpack = msgspec.msgpack.Encoder()


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
