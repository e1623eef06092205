"""How deep a body is, told before it is decoded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_runtime.web.wire.bodies.nesting import is_json_deeper, is_msgpack_deeper

# Texts made of what could mislead a count of brackets.
tricky = st.text(alphabet='[]{}"\\a,:', max_size=12)
values = st.recursive(
    st.none() | st.integers(-5, 300) | tricky,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(tricky, children, max_size=4),
    max_leaves=60,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(v) for v in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(v) for v in value), default=0)
    return 0


@given(value=values, levels=st.integers(1, 6))
def test_the_answer_is_the_values_depth(value: Any, levels: int) -> None:
    deeper = depth(value) > levels
    assert is_json_deeper(msgspec.json.encode(value), levels) == deeper
    assert is_msgpack_deeper(msgspec.msgpack.encode(value), levels) == deeper


@pytest.mark.parametrize("levels", [1, 31, 32])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_exactly_the_allowed_depth_passes(opening: bytes, closing: bytes, levels: int) -> None:
    def nested(deep: int) -> bytes:
        return opening * deep + b"1" + closing * deep

    assert not is_json_deeper(nested(levels), levels)
    assert is_json_deeper(nested(levels + 1), levels)


@given(data=st.binary(max_size=30), at=st.integers(0, 30), levels=st.integers(1, 5))
def test_no_rubbish_hides_a_depth_that_a_decoder_would_reach(
    data: bytes, at: int, levels: int
) -> None:
    bomb = data[:at] + b"[" * 2000 + data[at:]
    if is_json_deeper(bomb, levels):
        return
    try:
        msgspec.json.decode(bomb)
    except RecursionError:
        raise AssertionError(bomb) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # it gave up before it went deep


@pytest.mark.parametrize(
    ("bomb", "is_deeper"),
    [
        (b"[" * 1_000_000, True),
        (b"[]" * 500_000, False),
        (b'{"a":' * 200_000, True),
        (b'"' * 10**6, False),
    ],
    ids=["open", "empty", "objects", "quotes"],
)
def test_a_large_hostile_body_is_answered_in_time(bomb: bytes, is_deeper: bool) -> None:
    assert is_json_deeper(bomb, 32) is is_deeper  # the test's own time limit judges


def test_wide_is_not_deep() -> None:
    wide = msgspec.json.encode([{"task": "a", "args": [1, [2]]}] * 5000)
    assert not is_json_deeper(wide, 32)
    assert not is_msgpack_deeper(msgspec.msgpack.encode([[1, [2]]] * 5000), 32)
