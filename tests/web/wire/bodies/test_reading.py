"""A request's bytes become a value, or a rejection that names what is wrong with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime.web.wire.bodies.reading import Body
from worker_runtime.web.wire.rejection import Rejection


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
