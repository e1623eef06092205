"""The command line, `worker-runtime`."""

from worker_runtime.cli.commands import main

__all__ = ["main"]
