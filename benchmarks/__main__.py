"""Run the benchmarks named on the command line (all without names) and write RESULTS.md."""

from __future__ import annotations

import datetime
import importlib
import sys
from pathlib import Path

from benchmarks.report import hardware, interpreter

PAGE = Path(__file__).with_name("RESULTS.md")
NAMES = ("dispatch", "scale", "web", "durable", "cpu_pool", "fleets", "redis_queue")

INTRODUCTION = """# Benchmark results

Written by `make bench`. Contenders of one table ran in turns in one invocation on one machine, so
that the ratios mean something; the absolute figures belong to that machine and that hour. Rows that
we lose stay.
"""


def main(names: list[str]) -> int:
    """Run each benchmark; the page is replaced only when all of them succeeded."""
    sections = []
    for name in names or NAMES:
        print(f"running {name} ...", flush=True)
        sections.append(importlib.import_module(f"benchmarks.{name}").main())
        print(sections[-1], flush=True)
    if not names:
        when = datetime.datetime.now(datetime.UTC).date().isoformat()
        where = f"{when}, {interpreter()}, {hardware()}."
        PAGE.write_text("\n\n".join([INTRODUCTION + "\n" + where, *sections]) + "\n")
        print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
