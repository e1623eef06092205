"""`worker-runtime stats`: what a running worker measures, its store above all."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from worker_runtime.cli.worker import (
    Document,
    json_option,
    plain,
    print_json,
    url_option,
    worker_at,
)


@click.command()
@url_option
@json_option
def stats(url: str | None, as_json: bool) -> None:
    """Show what a worker measures: its queues, its executors, its jobs and its store.

    Exit codes: 0 done, 1 refused, 2 wrong use, 3 no worker answers.
    """
    found = worker_at(url).ask("GET", "/v1/statistics")
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Document) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    queues = {queue.pop("name"): queue for queue in found.pop("queues")}
    console.print(_table("queue", queues), _table("executor", found.pop("executors")))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found):
        facts.add_row(name, plain(_shown(value)))
    console.print(facts)


def _table(heading: str, rows: Mapping[str, Document]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column(heading, overflow="fold")
    for name in next(iter(rows.values()), {}):
        table.add_column(name, justify="right", overflow="fold")
    for name, figures in rows.items():
        table.add_row(plain(name), *(_shown(value) for value in figures.values()))
    return table


def _facts(document: Document, within: str = "") -> Iterator[tuple[str, Any]]:
    """The figures of a document with their names; those that it has none of are left out."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _facts(value, f"{within}{name}.")
        elif value is not None:
            yield f"{within}{name}", value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
