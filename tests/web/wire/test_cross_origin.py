"""Which other origins' pages may read an answer."""

from __future__ import annotations

from aiohttp.test_utils import make_mocked_request

from worker_runtime.web.wire.cross_origin import ANY_ORIGIN, preflight_headers, with_credentials


def test_credentials_need_the_origin_by_its_name() -> None:
    plain = make_mocked_request("GET", "/")
    assert with_credentials(plain) == ANY_ORIGIN == {"Access-Control-Allow-Origin": "*"}
    from_page = make_mocked_request("GET", "/", {"Origin": "http://ui.example"})
    assert with_credentials(from_page) == {
        "Access-Control-Allow-Origin": "http://ui.example",
        "Access-Control-Allow-Credentials": "true",
        "Vary": "Origin",
    }


def test_a_browser_that_asks_first_is_told_what_a_page_may_send() -> None:
    told = preflight_headers(ANY_ORIGIN, methods="GET, PUT", headers="X-A")
    assert told == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, PUT",
        "Access-Control-Allow-Headers": "X-A",
    }
    kept = preflight_headers(ANY_ORIGIN, methods="GET", headers="*", max_age_s=600)
    assert kept["Access-Control-Max-Age"] == "600"
