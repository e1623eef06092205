"""What the headers say about a body, and about the one that is wanted back."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from worker_runtime.web.wire.bodies.media import is_msgpack, wants_msgpack
from worker_runtime.web.wire.rejection import Rejection


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
