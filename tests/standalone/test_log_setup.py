"""The process's logs: text for people, one JSON object a line for machines."""

from __future__ import annotations

import logging
import subprocess
import sys

import msgspec
import pytest

from tests.support.helpers import ROOT
from worker_runtime.standalone.log_setup import JsonFormatter

SCRIPT = """
import logging, sys
from worker_runtime.standalone.log_setup import configure_logging, log_now
configure_logging({level!r}, {style!r})
logger = logging.getLogger("app")
logger.debug("quiet")
logger.info("two\\nlines of %s", "text")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("it failed")
log_now(logging.CRITICAL, "ending")
"""


def logged(level: str, style: str) -> list[str]:
    script = SCRIPT.format(level=level, style=style)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_a_line_with_the_exception_inside() -> None:
    info, failed, now = [msgspec.json.decode(line) for line in logged("INFO", "json")]
    assert (info["level"], info["logger"]) == ("INFO", "app")
    assert info["message"] == "two\nlines of text"
    assert info["time"].endswith("+00:00")
    assert failed["message"] == "it failed"
    assert failed["exception"].startswith("Traceback")
    assert "ZeroDivisionError" in failed["exception"]
    assert (now["level"], now["message"]) == ("CRITICAL", "ending")


def test_text_has_time_level_and_logger() -> None:
    lines = logged("DEBUG", "text")
    assert lines[0].split(maxsplit=2)[2].startswith("DEBUG")
    assert lines[0].endswith("app: quiet")
    assert lines[-1].endswith("worker_runtime.server: ending")


def test_the_level_is_respected() -> None:
    assert not any("lines of" in line for line in logged("ERROR", "text"))


@pytest.mark.parametrize("text", ["\ud800 lone surrogate", 'quotes " and \\', "\x00\x1b[31m"])
def test_any_text_becomes_valid_json(text: str) -> None:
    record = logging.LogRecord("app", logging.INFO, "", 0, text, None, None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert msgspec.json.decode(line.encode())["level"] == "INFO"
