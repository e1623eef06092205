"""The process's logs: text for people, one JSON object a line for machines."""

from __future__ import annotations

import logging
import subprocess
import sys

import msgspec
import pytest

from tests.support.helpers import ROOT
from worker_runtime.standalone.log_setup import JsonFormatter, TextFormatter

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


# A line of the log is the log's own (B27)

FORGED = "2026-01-01 00:00:00.000 INFO    worker_runtime.server: all is well"
HOSTILE = [
    f"a\n{FORGED}",
    f"a\r{FORGED}",
    f"a\r\n{FORGED}",
    f"a\x0b{FORGED}",
    f"a\x0c{FORGED}",
    f"a\x1c{FORGED}",
    f"a\x85{FORGED}",
    f"a\u2028{FORGED}",
    f"a\u2029{FORGED}",
    f"a\x1b[2K\x1b[1A{FORGED}",
    f"a\x9b2K{FORGED}",
    f"a\x1b]0;title\x07{FORGED}",
    f"a\u202e{FORGED}",
    f"a\x00\x08\x7f{FORGED}",
    f"a\ud800{FORGED}",
]
WRITE_THEM = """
import logging, sys
from worker_runtime import Settings
from worker_runtime.standalone.log_setup import configure_logging, log_now
from worker_runtime.standalone.settings_classes import configure_arq_logging

if sys.argv[2] == "arq":
    configure_arq_logging(Settings())
else:
    configure_logging("INFO", "text")
for text in eval(sys.argv[1]):
    logging.getLogger("arq").info("job failed: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("arq").exception("job failed", stack_info=True)
    log_now(logging.CRITICAL, text)
"""


@pytest.mark.parametrize("style", ["text", "arq"])
def test_no_text_passes_for_a_line_of_the_log_or_drives_the_terminal(style: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_THEM, ascii(HOSTILE), style], cwd=ROOT, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"")
    log = done.stderr.decode()  # whatever it was, it is UTF-8 now
    assert all(c == "\n" or c.isprintable() for c in log)
    lines = log.splitlines()
    assert len([line for line in lines if not line.startswith("  ")]) == 3 * len(HOSTILE)
    assert not [line for line in lines if line.startswith(FORGED)]


def test_what_belongs_to_a_record_is_set_in_below_it() -> None:
    lines = logged("INFO", "text")
    assert lines[0].endswith("app: two")
    assert lines[1] == "  lines of text"
    assert "  Traceback (most recent call last):" in lines
    assert "  ZeroDivisionError: division by zero" in lines


@pytest.mark.parametrize("text", ["", "plain", "tab\tulated", "naïve ☃ 日本\u3000語", "\u00a0"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    record = logging.LogRecord("app", logging.INFO, "", 0, "%s", (text,), None)
    assert TextFormatter("%(message)s").format(record) == text
