"""An exception class is found by the name that a file has of it, wherever it was then."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from tests.support.helpers import ROOT
from worker_runtime.client import WorkerUnreachable
from worker_runtime.model.tasks.policy import qualified_name
from worker_runtime.stores.sqlite.exception_names import MOVED, exception_class


@pytest.mark.parametrize(("before", "today"), MOVED.items())
def test_a_class_that_was_moved_is_found_by_both_names(before: str, today: str) -> None:
    module, _, name = today.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert qualified_name(kind) == today
    assert exception_class(today) is kind
    assert exception_class(before) is kind


def test_a_class_whose_module_is_not_loaded_yet_is_known_when_it_is_raised() -> None:
    program = """
from worker_runtime.stores.sqlite.exception_names import exception_class
kind = exception_class("worker_runtime.client_wire.WorkerUnreachable")
from worker_runtime.client import WorkerUnreachable
assert kind is not WorkerUnreachable
try:
    raise WorkerUnreachable("away")
except Exception as error:
    assert isinstance(error, kind)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_other_names_are_of_nothing_that_is_here() -> None:
    stranger = exception_class("app.mail.Refused")
    assert qualified_name(stranger) == "app.mail.Refused"
    assert not isinstance(WorkerUnreachable("away"), stranger)
