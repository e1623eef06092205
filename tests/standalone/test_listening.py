"""Binding, and what is said where it cannot be."""

from __future__ import annotations

import socket

import pytest

from worker_runtime import ConfigurationError, Settings
from worker_runtime.standalone.listening import bind, check_exposure, local_url_of, url_of


def test_port_zero_takes_one_free_port_for_all_addresses() -> None:
    sockets = bind("localhost", 0)
    try:
        ports = {bound.getsockname()[1] for bound in sockets}
        assert len(ports) == 1
        assert ports != {0}
    finally:
        for bound in sockets:
            bound.close()


def test_a_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} on 127\.0\.0\.1 is in use"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'192\.0\.2\.1' is not an address of this"):
        bind("192.0.2.1", 0)


def test_a_host_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'no such host' is not an address"):
        bind("no such host", 0)


def test_urls_name_the_real_port_and_where_this_machine_reaches_it() -> None:
    (bound,) = bind("0.0.0.0", 0)
    with bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://0.0.0.0:{port}"
        assert local_url_of(bound) == f"http://127.0.0.1:{port}"


def test_other_machines_need_a_token_or_an_explicit_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigurationError, match="WORKER_TOKEN is not set"):
        check_exposure(Settings(host="0.0.0.0"))
    with pytest.raises(ConfigurationError, match=r"'no such host' is not an address"):
        check_exposure(Settings(host="no such host"))
    check_exposure(Settings(host="0.0.0.0", token="a secret of some length"))
    check_exposure(Settings(host="127.0.0.1"))
    assert not caplog.records
    check_exposure(Settings(host="0.0.0.0", allow_anonymous=True))
    assert "WORKER_ALLOW_ANONYMOUS" in caplog.text


@pytest.mark.parametrize("token", ["x", "ab", "12345"])
def test_a_token_that_is_a_slip_does_not_open_the_door_to_other_machines(token: str) -> None:
    """B32d"""
    words = rf"WORKER_TOKEN has only {len(token)} characters; give it at least 6"
    with pytest.raises(ConfigurationError, match=words) as refused:
        check_exposure(Settings(host="0.0.0.0", token=token))
    assert repr(token) not in str(refused.value)
    check_exposure(Settings(host="0.0.0.0", token=token, allow_anonymous=True))
    check_exposure(Settings(host="127.0.0.1", token=token))


def test_a_token_that_can_be_guessed_is_taken_with_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """B32d: the fleets have short ones."""
    check_exposure(Settings(host="0.0.0.0", token="secret"))
    assert "WORKER_TOKEN has only 6 characters and can be guessed" in caplog.text
    assert "secret" not in caplog.text
