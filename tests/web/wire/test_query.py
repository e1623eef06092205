"""What a query string says, and what it cannot say."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from worker_runtime.web.wire.query import flag, number, only, whole, word
from worker_runtime.web.wire.rejection import Rejection


def asked(query: str) -> web.Request:
    return make_mocked_request("GET", f"/?{query}")


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
    ("text", "value"), [("", 7), ("1", 1), ("1000", 1000), ("5.0", 5), ("1e2", 100), ("007", 7)]
)
def test_a_whole_number_may_be_empty_and_written_in_any_decimal_way(text: str, value: int) -> None:
    assert whole(asked(f"limit={text}"), "limit", low=1, high=1000, default=7) == value


@pytest.mark.parametrize("text", ["0", "1001", "2.5", "x", "nan", "1e999", "-1", "%D9%A3", "1_0"])
def test_any_other_whole_number_is_named(text: str) -> None:
    with pytest.raises(Rejection, match="`limit`: must be a whole number from 1 to 1000") as caught:
        whole(asked(f"limit={text}"), "limit", low=1, high=1000, default=7)
    assert (caught.value.status, caught.value.code) == (422, "invalid_query")


def test_a_large_whole_number_is_not_rounded() -> None:
    cursor = (1 << 62) - 1
    assert whole(asked(f"cursor={cursor}"), "cursor", low=0, high=1 << 62, default=0) == cursor


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("true", "TRUE", "1", "yes", "on")),
        *((text, False) for text in ("false", "False", "0", "no", "off", "")),
    ],
)
def test_a_flag_has_many_words(text: str, value: bool) -> None:
    assert flag(asked(f"only={text}"), "only") is value
    if text in ("true", "false"):
        assert flag(asked(f"only={text}"), "only", is_exact=True) is value
    else:
        with pytest.raises(Rejection, match="`only`: must be true or false"):
            flag(asked(f"only={text}"), "only", is_exact=True)


def test_a_flag_is_no_where_it_is_not_given_and_refused_where_it_is_unclear() -> None:
    assert flag(asked("other=1"), "only") is False
    with pytest.raises(Rejection, match="`only`: must be true or false, not 'perhaps'"):
        flag(asked("only=perhaps"), "only")


def test_a_word_is_one_of_those_allowed() -> None:
    assert word(asked("state=up"), "state", ("up", "down")) == "up"
    assert word(asked(""), "state", ("up", "down")) is None
    with pytest.raises(Rejection, match="`state`: must be one of up, down, not 'left'"):
        word(asked("state=left"), "state", ("up", "down"))


def test_a_parameter_that_is_not_known_is_named_with_those_that_are() -> None:
    only(asked("limit=1&limit=2"), {"limit", "cursor"})
    with pytest.raises(Rejection, match="unknown parameter `page`; allowed: cursor, limit"):
        only(asked("limit=1&page=2"), {"limit", "cursor"})
