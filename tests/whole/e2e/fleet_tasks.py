"""What the workers of the crash scenario serve."""

from __future__ import annotations

import time
from pathlib import Path

from worker_runtime import JobContext, task


@task(domain="data-processing", run_in="thread")
def process_data(ctx: JobContext, source_file: str) -> dict[str, int]:
    """Report, and go on only once the file is there."""
    ctx.report(1, 2, step="Cleaning: 1/2 rows")
    ctx.record_metric("rows_processed", 1)
    while not Path(source_file).exists():
        ctx.raise_if_cancelled()
        time.sleep(0.01)
    return {"rows_processed": 2}
