"""`worker-runtime fleet status` and `worker-runtime top`: many workers at a glance."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker_runtime.contracts.fetch import FetchFailed, fetch, printable
from worker_runtime.fleet.front import Fleet, FleetSettings
from worker_runtime.fleet.members import Member, Status

_BYTES_MAX = 4 << 20
_TIMEOUT_S = 5.0
_NEVER_S = 365 * 86_400.0
_ENDED = re.compile(rb"^worker_runtime_jobs_ended_total\{[^}]*\} (\S+)$", re.MULTILINE)
_COLOURS = {
    Status.AVAILABLE: "green",
    Status.BUSY: "yellow",
    Status.TEMPORARILY_UNAVAILABLE: "red",
}


def print_status(urls: Sequence[str], *, token: str | None, as_json: bool) -> int:
    """Look once, print the table or one JSON document, and return the exit code: 1 where a worker
    cannot be reached. A URL is a worker's, or that of a backend that lists its workers."""
    _quiet()

    async def look(view: _View) -> bool:
        await view.look()
        members = list(view.fleet.members)
        if as_json:
            document = msgspec.json.encode([member.document() for member in members])
            click.echo(document.decode())
        else:
            Console().print(view.shown())
        return bool(members) and all(
            m.status is not Status.TEMPORARILY_UNAVAILABLE for m in members
        )

    return 0 if asyncio.run(_with_view(urls, token, look)) else 1


def watch_live(
    urls: Sequence[str], *, token: str | None, interval_s: float, looks_max: int
) -> None:
    """Draw the table anew every `interval_s` seconds, `looks_max` times or (0) until Ctrl-C."""
    _quiet()

    console = Console()

    async def watch(view: _View) -> bool:
        with Live(view.shown(), console=console, auto_refresh=False) as live:
            looks = 0
            while True:
                await view.look(with_rates=True)
                live.update(view.shown(), refresh=True)
                looks += 1
                if looks == looks_max:
                    return True
                await asyncio.sleep(interval_s)

    try:
        asyncio.run(_with_view(urls, token, watch))
    except KeyboardInterrupt:
        pass
    if not console.is_terminal:  # where rich leaves the last line open
        console.print()


class _View:
    """The workers behind some URLs, and how many jobs each has ended."""

    def __init__(self, fleet: Fleet, session: aiohttp.ClientSession, token: str | None) -> None:
        self.fleet = fleet
        self._session = session
        self._token = token
        self._ended: dict[str, tuple[float, float]] = {}
        self._rates: dict[str, float] = {}

    async def look(self, *, with_rates: bool = False) -> None:
        await self.fleet.check_all()
        if with_rates:
            await asyncio.gather(*(self._measure(member) for member in self.fleet.members))

    def shown(self) -> Group:
        """The table, and below it, where a sentence has room, why a worker did not answer."""
        failures = [(m.id, m.failure_text) for m in self.fleet.members if m.failure_text]
        return Group(self._table(), *(_plain(f"{each}: {text}") for each, text in failures))

    def _table(self) -> Table:
        table = Table()
        table.add_column("worker", overflow="fold")
        table.add_column("status", overflow="fold")
        for name in ("run", "queued", "CPU%", "mem%", "jobs/s", "ms"):
            table.add_column(name, no_wrap=True, justify="right")
        table.add_column("operation", overflow="fold")
        for member in self.fleet.members:
            colour = _COLOURS[member.status]
            rate = self._rates.get(member.id)
            load = member.load
            table.add_row(
                _plain(member.id),
                Text(member.status, colour),
                f"{load.active:g}",
                f"{load.waiting:g}",
                f"{load.cpu_percent:.1f}",
                f"{load.memory_percent:.1f}",
                "" if rate is None else f"{rate:.1f}",
                "" if member.latency_s is None else f"{member.latency_s * 1000:.1f}",
                _plain(member.current_operation_id or ""),
            )
        return table

    async def _measure(self, member: Member) -> None:
        """Jobs ended each second since the last look, from the worker's own counters."""
        try:
            answer = await fetch(
                self._session,
                "GET",
                f"{member.url}/metrics/prometheus",
                timeout_s=_TIMEOUT_S,
                bytes_max=_BYTES_MAX,
                token=self._token,
            )
            ended = sum(float(value) for value in _ENDED.findall(answer.body))
        except (FetchFailed, ValueError):
            self._rates.pop(member.id, None)
            return
        now = self.fleet.clock.monotonic()
        before = self._ended.get(member.id)
        self._ended[member.id] = (now, ended)
        if before is not None and now > before[0]:
            self._rates[member.id] = max(0.0, ended - before[1]) / (now - before[0])


async def _with_view(
    urls: Sequence[str], token: str | None, use: Callable[[_View], Awaitable[bool]]
) -> bool:
    # One failed look is enough to say so; and the view looks itself, when it is asked to.
    settings = FleetSettings(
        failures_max=1, check_every_s=_NEVER_S, check_timeout_s=_TIMEOUT_S, token=token
    )
    async with aiohttp.ClientSession() as session:
        found = [await _workers_at(session, url, token) for url in urls]
        async with Fleet([url for each in found for url in each], settings=settings) as fleet:
            return await use(_View(fleet, session, token))


async def _workers_at(session: aiohttp.ClientSession, url: str, token: str | None) -> list[str]:
    """The workers that a backend lists at `url`; the URL itself where there is no such list."""
    base = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
    try:
        answer = await fetch(
            session,
            "GET",
            f"{base}/api/v1/workers",
            timeout_s=_TIMEOUT_S,
            bytes_max=_BYTES_MAX,
            token=token,
        )
        listed = answer.json() if answer.status == 200 else None
    except FetchFailed:
        return [base]
    if not isinstance(listed, list):
        return [base]
    records = (record for record in listed if isinstance(record, dict))
    return [str(record["endpoint_url"]) for record in records if record.get("endpoint_url")]


def _plain(text: str) -> Text:
    """A worker's words, of which neither rich nor the terminal obeys any."""
    return Text(printable(text))


def _quiet() -> None:
    """The table says what the log would, a line for each failed check, between its rows."""
    logging.getLogger("worker_runtime").setLevel(logging.CRITICAL)
