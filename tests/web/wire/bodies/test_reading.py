"""Bodies in and out, and the one table from an error to a status."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime import Runtime, errors, task
from worker_runtime.web.wire.bodies.media import is_msgpack, wants_msgpack
from worker_runtime.web.wire.bodies.reading import Body
from worker_runtime.web.wire.query import number
from worker_runtime.web.wire.rejection import Rejection, problem_document, rejection_of
from worker_runtime.web.wire.waits import JobWaits


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    names: list[str] = []


POINT: Body[Point] = Body(Point, bytes_max=1000)
ANYTHING: Body[Any] = Body(Any, bytes_max=10_000_000)


def refused(data: bytes, body: Body[Any] = POINT, *, packed: bool = False) -> Rejection:
    with pytest.raises(Rejection) as caught:
        body.decode(data, packed=packed)
    return caught.value


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "not valid JSON"),
        (b'{"x":NaN}', 400, "not valid JSON"),
        (b'{"x":1}}', 400, "not valid JSON"),
        (b'{"names":["\xff"],"x":1}', 400, "utf-8"),
        (b'{"x":1e999}', 422, "`x`: number out of range"),
        (b'{"x":' + b"1" * 5000 + b"}", 422, "`x`: integer value out of range"),
        (b'{"x":"1"}', 422, "`x`: expected `int`, got `str`"),
        (b'{"x":1.5}', 422, "`x`: expected `int`, got `float`"),
        (b'{"x":1,"names":["a",2]}', 422, "`names[1]`: expected `str`, got `int`"),
        (b'{"x":1,"y":2}', 422, "unknown field `y`"),
        (b"{}", 422, "missing required field `x`"),
        (b"[]", 422, "Expected `object`, got `array`"),
        (b"[" * 100_000, 400, "nested deeper than the 32 levels"),
    ],
)
def test_a_refusal_names_the_problem_and_its_place(data: bytes, status: int, said: str) -> None:
    rejection = refused(data)
    assert rejection.status == status
    assert said in rejection.detail
    assert len(rejection.detail) <= 500


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x91" * 100_000, 400),
        (b"\xdd\xff\xff\xff\xff", 422),
        (b"\xc1", 400),
        (b"\x82\xa1x\x01\xa5names\x91\xa1\xff", 400),
        (msgspec.msgpack.encode({"x": "1"}), 422),
        (msgspec.msgpack.encode([[[[[[1]]]]]]), 422),
        (b"\x91" * 40 + b"\x01", 400),
    ],
)
def test_messagepack_is_refused_alike(data: bytes, status: int) -> None:
    assert refused(data, packed=True).status == status


@given(data=st.binary(max_size=200), packed=st.booleans())
def test_any_bytes_are_a_value_or_a_rejection(data: bytes, packed: bool) -> None:
    statuses = []
    for body in (POINT, ANYTHING):
        try:
            body.decode(data, packed=packed)
        except Rejection as rejection:
            statuses.append(rejection.status)
    assert set(statuses) <= {400, 422}


def test_32_levels_are_allowed_in_both_formats() -> None:
    value: Any = 1
    for _ in range(32):
        value = [value]
    for packed, encode in ((False, msgspec.json.encode), (True, msgspec.msgpack.encode)):
        assert ANYTHING.decode(encode(value), packed=packed) == value
        assert refused(encode([value]), ANYTHING, packed=packed).code == "too_deep"


@pytest.mark.parametrize(
    ("header", "packed"),
    [
        ("application/json", False),
        ("Application/JSON; charset=UTF-8", False),
        ('application/json;charset="utf-8"', False),
        ("application/msgpack", True),
        ("application/x-msgpack", True),
        ("application/vnd.msgpack; x=y", True),
    ],
)
def test_content_types_that_are_understood(header: str, packed: bool) -> None:
    request = make_mocked_request("POST", "/", {"Content-Type": header})
    assert is_msgpack(request) is packed


@pytest.mark.parametrize(
    "header",
    [
        "",
        "text/plain",
        "application/jsonp",
        "json",
        "application/json; charset=latin-1",
        ";;;",
        "*/*",
    ],
)
def test_other_content_types_are_415(header: str) -> None:
    with pytest.raises(Rejection) as caught:
        is_msgpack(make_mocked_request("POST", "/", {"Content-Type": header}))
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("accept", "packed"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("application/msgpack", True),
        ("application/x-msgpack, */*;q=0.5", True),
        ("application/json, application/msgpack", False),
        ("application/json;q=0.5, application/msgpack", True),
        ("application/msgpack;q=0.1, application/json;q=0.9", False),
        ("application/msgpack;q=0", False),
        ("application/msgpack;q=nonsense", True),
        ("text/html", False),
    ],
)
def test_what_accept_prefers(accept: str | None, packed: bool) -> None:
    headers = {} if accept is None else {"Accept": accept}
    assert wants_msgpack(make_mocked_request("GET", "/", headers)) is packed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "nan",
        "inf",
        "-1",
        "61",
        "1e999",
        "1_0",
        "%201",
        "1%20",
        "+1",
        "0x1",
        "%D9%A3",
        "1" * 99,
    ],
)
def test_a_query_number_out_of_bounds_is_named(text: str) -> None:
    request = make_mocked_request("GET", f"/?wait_s={text}")
    with pytest.raises(Rejection, match="`wait_s`: must be a number from 0 to 60") as caught:
        number(request, "wait_s", low=0, high=60, default=0)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("60", 60), ("1.5", 1.5), (".5", 0.5), ("5.", 5), ("1e-05", 1e-5)]
)
def test_a_query_number_is_decimal(text: str, value: float) -> None:
    request = make_mocked_request("GET", f"/?wait_s={text}")
    assert number(request, "wait_s", low=0, high=60, default=0) == value


def test_a_query_number_has_a_default() -> None:
    request = make_mocked_request("GET", "/?other=1")
    assert number(request, "wait_s", low=0, high=60, default=7) == 7


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidArguments("a"), 422),
        (errors.InvalidJob("a"), 422),
        (errors.UnknownTask("a"), 404),
        (errors.UnknownQueue("a"), 404),
        (errors.UnknownJob("a"), 404),
        (errors.JobConflict("a"), 409),
        (errors.InvalidTransition("a"), 409),
        (errors.PayloadTooLarge("a"), 413),
        (errors.QueueFull("a"), 503),
        (errors.Overloaded("a"), 503),
        (errors.StoreUnavailable("a"), 503),
        (errors.ShuttingDown("a"), 503),
        (ZeroDivisionError("secret"), 500),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    rejection = rejection_of(error)
    assert rejection.status == status
    assert ("Retry-After" in (rejection.headers or {})) is (status == 503)
    assert "secret" not in str(problem_document(rejection))


def test_retry_after_is_in_whole_seconds_and_never_0() -> None:
    for seconds, header in ((0.0, "1"), (0.4, "1"), (5.0, "5")):
        rejection = rejection_of(errors.QueueFull("full", retry_after_s=seconds))
        assert rejection.headers == {"Retry-After": header}


async def test_waits_share_a_timer_and_keep_their_own_limits() -> None:
    release = asyncio.Event()

    @task
    async def held() -> None:
        await release.wait()

    async with Runtime([held]) as runtime:
        waits = JobWaits(runtime)
        job = (await runtime.enqueue(held)).job
        long = asyncio.create_task(waits.ended_within(job, 30))
        assert not await waits.ended_within(job, 0.02)
        assert not await waits.ended_within(job, 0)
        assert not long.done()
        release.set()
        assert await long
        assert await waits.ended_within(job, 0)
        assert runtime.parts.table._waiting == 0


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    @task
    async def held() -> None:
        await asyncio.Event().wait()

    async with Runtime([held]) as runtime:
        waits = JobWaits(runtime)
        job = (await runtime.enqueue(held)).job
        waiting = asyncio.create_task(waits.ended_within(job, 30))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert runtime.parts.table._waiting == 0
        assert not waits._deadlines
        await runtime.cancel(job.id)
