"""How deep a body is nested, told before it is decoded.

A decoder recurses on the C stack: on one of the usual size too deep a body raises RecursionError,
on a small one it ends the process.
"""

from __future__ import annotations

from typing import Any

import msgspec

# Brackets outside of strings decide the depth. The table maps both kinds of brackets to one and
# everything else is deleted, so that the rest is a few passes of C over a few bytes.
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))

# The first bytes of MessagePack's arrays and maps. They may also be part of a number or a text, so
# they can only say that a body is shallow.
_NOT_CONTAINERS = bytes(set(range(256)) - set(range(0x80, 0xA0)) - set(range(0xDC, 0xE0)))
_decode_msgpack = msgspec.msgpack.Decoder().decode


def is_json_deeper(data: bytes, levels: int) -> bool:
    """Whether the JSON text `data` is nested deeper than `levels`. Malformed text may get either
    answer, but not False where a decoder would go deeper before it notices."""
    if data.count(b"[") + data.count(b"{") <= levels:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = data.translate(_BRACKETS, _NOT_STRUCTURE)
    brackets = b"".join(structure.split(b'"')[::2])
    for _ in range(levels):  # each pass takes the innermost level away
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return brackets.count(b"[") > levels or b"[]" in brackets


def is_msgpack_deeper(data: bytes, levels: int) -> bool:
    """Whether the MessagePack value `data` is nested deeper than `levels`. Raises what the decoder
    raises, RecursionError included: its recursion is counted."""
    if len(data.translate(None, _NOT_CONTAINERS)) <= levels:
        return False
    level = _containers([_decode_msgpack(data)])
    for _ in range(levels):
        level = [child for value in level for child in _containers(value)]
    return bool(level)


def _containers(value: Any) -> list[Any]:
    children = value.values() if type(value) is dict else value
    return [child for child in children if type(child) is dict or type(child) is list]
