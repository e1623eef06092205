"""The requests and answers written out in a page, its tables, and what a real answer must have in
common with a written one: status, headers, the names of all fields and the types of all values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{2,4}) (.+)$", re.MULTILINE)
_ANSWER = re.compile(r"^HTTP/1\.1 (\d{3}) .+$", re.MULTILINE)
_TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
# What aiohttp adds to every answer.
_ALWAYS = frozenset({"content-length", "date", "server"})


class Exchange(NamedTuple):
    """A request and its answer. `sent` and `answered` are decoded JSON, or text where they are
    none; None without a body."""

    section: str
    method: str
    path: str
    headers: dict[str, str]
    sent: Any
    status: int
    answer_headers: dict[str, str]
    answered: Any

    @property
    def title(self) -> str:
        return f"{self.method} {self.path} {self.status}"


def sections_of(page: str) -> Iterator[tuple[str, str]]:
    """The heading and the text of each section."""
    headings = list(_HEADING.finditer(page))
    for at, heading in enumerate(headings):
        end = headings[at + 1].start() if at + 1 < len(headings) else len(page)
        yield heading[2], page[heading.end() : end]


def exchanges_in(page: str) -> list[Exchange]:
    """Every ```http block of a page: a request, an empty line, and its answer."""
    found = []
    for section, text in sections_of(page):
        for block in blocks_in(text, "http"):
            answer = _ANSWER.search(block)
            assert answer is not None, f"no answer in {block[:80]!r}"
            line, headers, sent = _message(block[: answer.start()])
            _, answer_headers, answered = _message(block[answer.start() :])
            method, path, version = line.split()
            assert version == "HTTP/1.1", line
            status = int(answer[1])
            found.append(
                Exchange(section, method, path, headers, sent, status, answer_headers, answered)
            )
    return found


def blocks_in(text: str, kind: str) -> list[str]:
    return [block for found, block in _BLOCK.findall(text) if found == kind]


def tables_in(text: str) -> list[list[list[str]]]:
    """The tables of a text: rows of cells, the heading row first, without the line below it."""
    tables = []
    for found in _TABLE.findall(text):
        rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in found.splitlines()]
        tables.append([rows[0], *rows[2:]])
    return tables


def names_in(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def _message(text: str) -> tuple[str, dict[str, str], Any]:
    head, _, body = text.strip().partition("\n\n")
    line, *rest = head.splitlines()
    headers = dict(entry.split(": ", 1) for entry in rest)
    if not body.strip():
        return line, headers, None
    try:
        return line, headers, msgspec.json.decode(body)
    except msgspec.DecodeError:
        return line, headers, body.strip()


def differences(written: Any, real: Any, at: str = "answer") -> list[str]:
    """Where `real` is of another shape than what is written: names of fields, types of values,
    empty or not. A text that is a time must be one in both, written in the same way."""
    if isinstance(written, dict) and isinstance(real, dict):
        found = [f"{at}.{name} is not really there" for name in written.keys() - real.keys()]
        found += [f"{at}.{name} is not on the page" for name in real.keys() - written.keys()]
        for name in written.keys() & real.keys():
            found += differences(written[name], real[name], f"{at}.{name}")
        return found
    if isinstance(written, list) and isinstance(real, list):
        if not written or not real:
            return [] if written == real else [f"{at} really has {len(real)} entries"]
        found = []
        for entry in real:
            found += least(differences(one, entry, f"{at}[]") for one in written)
        return found
    if _kind(written) != _kind(real):
        return [f"{at} is {_kind(written)} on the page, really {_kind(real)}: {real!r:.100}"]
    return []


def least(lists: Iterable[list[str]]) -> list[str]:
    """The shortest of them."""
    return min(lists, key=lambda one: len(one))


def header_differences(written: Mapping[str, str], real: Mapping[str, str]) -> list[str]:
    """All headers are written but those of every answer. A number of seconds may be another."""
    written = {name.lower(): value for name, value in written.items()}
    real = {name.lower(): value for name, value in real.items()}
    found = [f"{name} is not on the page" for name in real.keys() - written.keys() - _ALWAYS]
    for name, value in written.items():
        is_same = value == real.get(name)
        if not is_same and not (name == "retry-after" and real.get(name, "").isdigit()):
            found.append(f"{name} is {value!r} on the page, really {real.get(name)!r}")
    return found


def text_differences(written: str, real: str) -> list[str]:
    """The lines that are written stand in the real text; a number at the end may be another."""
    shown = {re.sub(r" [0-9.e+-]+$", "", line) for line in real.splitlines()}
    lines = [re.sub(r" [0-9.e+-]+$", "", line) for line in written.splitlines()]
    return [f"{line!r} is not really there" for line in lines if line not in shown]


def _kind(value: Any) -> str:
    if not isinstance(value, str) or not _is_time(value):
        return type(value).__name__
    return "a time with Z" if value.endswith("Z") else "a time without Z"


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return "T" in text


def is_of(kind: str, value: Any) -> bool:
    """Whether a value is what a table calls its type. Raises KeyError for a word not known here."""
    return any(_KINDS[one](value) for one in kind.split(" or ") if one != "false")


_KINDS: dict[str, Any] = {
    "any": lambda _: True,
    "list": lambda value: isinstance(value, list),
    "list of objects": lambda value: all(isinstance(one, dict) for one in value),
    "list of text": lambda value: all(isinstance(one, str) for one in value),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "text": lambda value: isinstance(value, str),
    "time": lambda value: isinstance(value, str) and _is_time(value) and value.endswith("Z"),
    "true": lambda value: isinstance(value, bool),
    "whole number": lambda value: type(value) is int,
}


def value_at(document: Any, path: str) -> list[Any]:
    """The value at a path such as `progress.percentage`; empty where it is not there."""
    for name in path.split("."):
        if not isinstance(document, dict) or name not in document:
            return []
        document = document[name]
    return [document]
