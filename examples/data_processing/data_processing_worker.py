"""A worker for one domain, data processing: clean, transform and validate the rows of a CSV file.

    DATA_DIR=data KTRDR_API_URL=http://backend:8000 WORKER_PORT=5005 \
        worker-runtime run data_processing_worker --dialects operations

Serves `POST /data-processing/start`. Files are named relative to DATA_DIR and never leave it.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from worker_runtime import JobContext, task

Row = dict[str, str]
Operation = Literal["clean", "transform", "validate"]
ROWS_PER_REPORT = 100


class DataProcessingRequest(msgspec.Struct):
    """What the backend sends besides `task_id`."""

    source_file: str
    operations: list[Operation]
    estimated_rows: int = 0


class DataProcessingResult(msgspec.Struct):
    rows_processed: int
    rows_rejected: int
    output_file: str
    duration_seconds: float


@task(name="data-processing", domain="data-processing", run_in="thread")
def process_data(ctx: JobContext, request: DataProcessingRequest) -> DataProcessingResult:
    """Apply the operations to every row, in their order, and write what is left of them."""
    began_at = time.monotonic()
    source = inside_data_dir(request.source_file)
    target = source.with_suffix(".processed.csv")
    steps = [STEPS[operation] for operation in request.operations]
    done = rejected = 0
    with source.open(newline="") as lines, target.open("w", newline="") as output:
        reader = csv.DictReader(lines, restval="")
        writer = csv.DictWriter(output, reader.fieldnames or ())
        writer.writeheader()
        for row in watched(ctx, reader, request):
            kept = apply(steps, row)
            if kept is None:
                rejected += 1
            else:
                writer.writerow(kept)
            done += 1
    ctx.record_metric("rows_processed", done)
    return DataProcessingResult(done, rejected, target.name, time.monotonic() - began_at)


def watched(ctx: JobContext, rows: Iterator[Row], request: DataProcessingRequest) -> Iterator[Row]:
    """The rows, with a look at the cancellation flag and a report every now and then."""
    total = request.estimated_rows or None
    for number, row in enumerate(rows, 1):
        ctx.raise_if_cancelled()
        if number % ROWS_PER_REPORT == 1:
            step = f"{', '.join(request.operations)}: {number}/{total or '?'} rows"
            ctx.report(number, total, step=step)
            ctx.record_metric("rows", number)
        yield row


def apply(steps: list[Callable[[Row], Row | None]], row: Row) -> Row | None:
    """The row after all steps; None as soon as one of them rejects it."""
    for step in steps:
        changed = step(row)
        if changed is None:
            return None
        row = changed
    return row


STEPS: dict[str, Callable[[Row], Row | None]] = {
    "clean": lambda row: {name: value.strip() for name, value in row.items()},
    "transform": lambda row: {name: value.lower() for name, value in row.items()},
    "validate": lambda row: row if all(row.values()) else None,
}


def inside_data_dir(name: str) -> Path:
    """The file of that name in DATA_DIR. Raises ValueError for one outside of it."""
    directory = Path(os.environ.get("DATA_DIR", ".")).resolve()
    found = (directory / name).resolve()
    if not found.is_relative_to(directory):
        raise ValueError(f"source_file {name!r} must lie in the data directory")
    return found
