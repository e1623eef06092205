"""Tasks of a module of their own, so that a child finds them."""

from __future__ import annotations


def empties(items: list[int]) -> None:
    """Say in its error what it was given, which it empties."""
    given = list(items)
    items.clear()
    raise ConnectionError(str(given))
