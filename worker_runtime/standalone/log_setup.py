"""How the process logs: one handler on stderr, as text for people or as one JSON object a line.

Only the process calls this. A runtime embedded in another application logs to the standard
`worker_runtime` loggers and configures nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

from worker_runtime.model.bounded import set_in

_TEXT_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
_INDENT = "  "


class TextFormatter(logging.Formatter):
    """A record a line, and what belongs to it set in below: whatever a job or a client says, it
    does not pass for a line of the log, and a terminal obeys none of it."""

    def format(self, record: logging.LogRecord) -> str:
        return set_in(super().format(record), _INDENT)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and `exception`
    where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        try:
            return msgspec.json.encode(entry).decode()
        except UnicodeEncodeError:  # a lone surrogate, for example from a file's name
            safe = {k: v.encode("utf-8", "backslashreplace").decode() for k, v in entry.items()}
            return msgspec.json.encode(safe).decode()


def configure_logging(level: str, style: Literal["text", "json"]) -> None:
    """Send everything from `level` up to stderr; whatever was configured before is replaced."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(_TEXT_FORMAT, _TIME_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def log_now(level: int, message: str) -> None:
    """Log a line from where nothing may wait: a signal handler, or a thread that ends the process.

    Takes no lock, as the thread that was interrupted may hold it; writes to stderr in one call.
    """
    handlers = logging.getLogger().handlers
    formatter = handlers[0].formatter if handlers else None
    record = logging.LogRecord("worker_runtime.server", level, "", 0, message, None, None)
    line = formatter.format(record) if formatter is not None else message
    try:
        os.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody reads stderr any more
