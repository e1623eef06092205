"""arq's records as bytes, in each serializer."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from worker_runtime.errors import ConfigurationError
from worker_runtime.stores.redis.wire.layout import (
    Unreadable,
    Wire,
    WireJob,
    WireResult,
    exception_for,
    execution_failed,
)

JOB = WireJob("add", (1, "two"), {"three": 3}, None, 1_700_000_000_123)


def _result(value: Any, *, success: bool = True) -> WireResult:
    return WireResult(JOB, success, value, 1_700_000_000_200, 1_700_000_000_300, "arq:queue")


@pytest.mark.parametrize("name", ["pickle", "msgpack", "json"])
def test_jobs_and_results_round_trip(name: str) -> None:
    wire = Wire.named(name)
    assert wire.decode_job(wire.encode_job(JOB)) == JOB
    data = wire.encode_result(_result({"sum": 3}), "id-1")
    assert data is not None
    assert wire.decode_result(data) == _result({"sum": 3})


def test_the_fields_are_arqs() -> None:
    assert pickle.loads(Wire().encode_job(JOB)) == {
        "t": None,
        "f": "add",
        "a": (1, "two"),
        "k": {"three": 3},
        "et": 1_700_000_000_123,
    }
    data = Wire().encode_result(_result(3), "id-1")
    assert data is not None
    assert pickle.loads(data) == {
        "t": None,
        "f": "add",
        "a": (1, "two"),
        "k": {"three": 3},
        "et": 1_700_000_000_123,
        "s": True,
        "r": 3,
        "st": 1_700_000_000_200,
        "ft": 1_700_000_000_300,
        "q": "arq:queue",
        "id": "id-1",
    }


def test_an_unknown_serializer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pickle, msgpack or json"):
        Wire.named("yaml")


def test_a_result_that_cannot_be_written_becomes_a_failure() -> None:
    data = Wire().encode_result(_result(lambda: None), "id")
    assert data is not None
    loaded = pickle.loads(data)
    assert (loaded["s"], loaded["r"]) == (False, "unable to serialize result")


def test_a_serializer_that_refuses_everything_leaves_no_result() -> None:
    def refuse(data: dict[str, Any]) -> bytes:
        raise RuntimeError("no")

    assert Wire(serializer=refuse).encode_result(_result(1), "id") is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a pickle", "Unpickling"),
        (pickle.dumps({"f": "x"}), "no field 'a'"),
        (pickle.dumps({"f": 1, "a": (), "k": {}, "t": None, "et": 1}), "name must be text"),
        (pickle.dumps({"f": "x", "a": 5, "k": {}, "t": None, "et": 1}), "a list or tuple"),
        (pickle.dumps({"f": "x", "a": (), "k": [], "t": None, "et": 1}), "must be a dict"),
        (pickle.dumps({"f": "x", "a": (print,), "k": {}, "t": None, "et": 1}), "builtins.print"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        Wire().decode_job(data)


def test_unsafe_pickle_reads_the_rest() -> None:
    data = pickle.dumps({"f": "x", "a": (print,), "k": {}, "t": None, "et": 1})
    assert Wire(unsafe_pickle=True).decode_job(data).args == (print,)


def test_arqs_own_errors_are_written_by_name() -> None:
    data = Wire().encode_result(_result(execution_failed("job expired"), success=False), "id")
    assert data is not None
    assert b"carq.worker\nJobExecutionFailed\n" in data
    assert "job expired" in repr(Wire().decode_result(data).value)


def test_cancelled_survives() -> None:
    data = Wire().encode_result(_result(asyncio.CancelledError(), success=False), "id")
    assert data is not None
    assert isinstance(Wire().decode_result(data).value, asyncio.CancelledError)


def test_an_exception_known_by_its_words() -> None:
    assert repr(exception_for("ValueError", "bad")) == repr(ValueError("bad"))
    assert repr(exception_for("TheirError", "bad")) == repr(RuntimeError("TheirError: bad"))
    assert isinstance(exception_for("UnicodeDecodeError", "x"), RuntimeError)
    assert isinstance(exception_for("SystemExit", "1"), RuntimeError)
