"""Tasks that the tests run in real children."""

from __future__ import annotations


def add(a: int, b: int = 1) -> int:
    return a + b
