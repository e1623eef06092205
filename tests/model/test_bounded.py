"""What is said of an exception, within bounds: its leaves, its notes, its causes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from worker_runtime.errors import RemoteFailure
from worker_runtime.model.bounded import clean, cut, error_text, leaves_of, masked, traceback_text
from worker_runtime.model.tasks.policy import Retry, qualified_name


def raised(make: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        make()
    return caught.value


def from_a_cause() -> None:
    try:
        raise ConnectionError("host 10.0.0.7 refused")
    except ConnectionError as error:
        raise RuntimeError("could not save") from error


def while_handling() -> None:
    try:
        raise KeyError("row")
    except KeyError:
        raise ValueError("bad")  # noqa: B904 - as many programs do


def noted() -> None:
    error = ValueError("bad row")
    error.add_note("row 17")
    error.add_note("import.csv")
    raise error


def grouped(*leaves: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("two", leaves)


def test_a21_a_cause_is_told() -> None:
    text = error_text(raised(from_a_cause), 8192)
    assert text == "could not save; from ConnectionError: host 10.0.0.7 refused"


def test_a21_notes_are_told() -> None:
    assert error_text(raised(noted), 8192) == "bad row; note: row 17; note: import.csv"


def test_a21_the_leaves_of_a_group_are_told_each_once() -> None:
    one = grouped(ConnectionError("down"))
    assert error_text(one, 8192) == "two (1 sub-exception): ConnectionError: down"
    inner = grouped(ValueError("bad"), raised(from_a_cause))  # type: ignore[arg-type]
    many = grouped(ConnectionError("down"), inner, *(ConnectionError("down") for _ in range(5)))
    assert error_text(many, 8192) == (
        "two (7 sub-exceptions): [ConnectionError: down] x 6 [ValueError: bad] "
        "[RuntimeError: could not save; from ConnectionError: host 10.0.0.7 refused]"
    )


def test_a_cause_whose_words_are_there_already_is_not_told_twice() -> None:
    error = RuntimeError("could not save: disk full")
    error.__cause__ = OSError("disk full")
    assert error_text(error, 8192) == "could not save: disk full"


def test_an_exception_without_a_text_still_tells_its_cause() -> None:
    error = RuntimeError()
    error.__cause__ = ConnectionError()
    assert error_text(error, 8192) == "from ConnectionError"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExceptionGroup("g", [ValueError("x" * 10_000) for _ in range(10_000)]),
        lambda: ExceptionGroup("g", [ValueError(str(n)) for n in range(100_000)]),
        lambda: chain_of(10_000),
        lambda: circle(),
        lambda: nested(5_000),
        lambda: odd_notes("\ud800" * 10_000),
        lambda: odd_notes(["x" * 1_000_000] * 1000),
        lambda: odd_notes([object(), "\udfff"]),
    ],
)
def test_whatever_it_is_made_of_it_is_bounded(make: Callable[[], BaseException]) -> None:
    error = make()
    text, frames = error_text(error, 8192), traceback_text(error, 8192)
    assert len(text.encode()) <= 8192
    assert len(frames.encode()) <= 8192


def chain_of(count: int) -> BaseException:
    error = Exception("first")
    for n in range(count):
        following = Exception(f"{n}")
        following.__cause__ = error
        error = following
    return error


def circle() -> BaseException:
    one, other = Exception("one"), Exception("other")
    one.__cause__, other.__cause__ = other, one
    return one


def nested(depth: int) -> BaseException:
    error: Exception = ValueError("deep")
    for _ in range(depth):
        error = ExceptionGroup("g", [error])
    return error


def odd_notes(notes: object) -> BaseException:
    error = Exception("odd")
    error.__notes__ = notes  # type: ignore[assignment]
    return error


def test_a21_the_traceback_shows_where_causes_and_leaves_were_raised() -> None:
    text = traceback_text(raised(from_a_cause), 8192)
    assert "Raised from ConnectionError:\n" in text
    assert 'raise ConnectionError("host 10.0.0.7 refused")' in text

    async def fail() -> None:
        raise ConnectionError("down")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    assert "Raised while handling KeyError:\n" in traceback_text(raised(while_handling), 8192)
    text = traceback_text(raised(lambda: asyncio.run(run())), 8192)
    assert "In it ConnectionError:\n" in text
    assert 'raise ConnectionError("down")' in text


def test_a21_a_group_is_tried_again_where_each_of_its_leaves_would_be() -> None:
    retry = Retry(only_for=(ConnectionError, KeyError))
    assert retry.admits(grouped(ConnectionResetError(), KeyError()))
    assert retry.admits(grouped(grouped(ConnectionError()), KeyError()))
    assert not retry.admits(grouped(ConnectionError(), ValueError()))
    assert Retry(only_for=(ExceptionGroup,)).admits(grouped(ValueError()))
    assert Retry().admits(grouped(ValueError()))
    assert not Retry().admits(BaseExceptionGroup("g", [ValueError(), KeyboardInterrupt()]))


def test_a21_a_childs_group_is_judged_the_same_way() -> None:
    def remote(*leaves: type[BaseException]) -> RemoteFailure:
        lineages = tuple(tuple(qualified_name(k) for k in leaf.__mro__) for leaf in leaves)
        own = tuple(qualified_name(k) for k in ExceptionGroup.__mro__)
        return RemoteFailure("ExceptionGroup", "g", lineage=own, traceback="", leaves=lineages)

    retry = Retry(only_for=(ConnectionError, KeyError))
    assert retry.admits(remote(ConnectionResetError, KeyError))
    assert not retry.admits(remote(ConnectionError, ValueError))
    assert not retry.admits(remote())
    assert Retry(only_for=(ExceptionGroup,)).admits(remote(ValueError))
    assert Retry().admits(remote(ValueError))


def test_leaves_stand_in_their_order() -> None:
    group = grouped(ValueError("1"), grouped(ValueError("2"), ValueError("3")), ValueError("4"))
    assert [str(leaf) for leaf in leaves_of(group)] == ["1", "2", "3", "4"]


def test_text_that_utf8_has_no_form_for_is_spelled_out() -> None:
    assert clean("plain") == "plain"
    assert clean("é\U0001f600") == "é\U0001f600"
    assert clean("a\ud800b") == "a\\ud800b"
    assert cut("a\ud800b", 100) == "a\\ud800b"
    assert cut("\ud800" * 100, 20).encode()  # in bounds and valid
    assert len(cut("\ud800" * 100, 20).encode()) <= 20


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://user:pw@host/db", "postgres://***@host/db"),
        ("redis://:pa/s@s:w@host:1/0?db=1", "redis://***@host:1/0?db=1"),
        ("redis://:a?b@host", "redis://***@host"),
        ("redis:///:pw@host", "redis://***@host"),
        ("redis://:pw", "redis://:***"),
        ("redis:user:pw@host", "redis:***@host"),
        ("//user:pw@host", "//***@host"),
        ("REDIS://U:PW@[::1]:6379", "REDIS://***@[::1]:6379"),
        ("amqp://host?x=1&sslPassword=a&y=2", "amqp://host?x=1&sslPassword=***&y=2"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """B28"""
    assert masked(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://",
        "redis://host:6379/0",
        "redis://[::1]:6379",
        "redis://[::1]",
        "sqlite:///data@home/jobs.db?ack=os",
        "http://a.example:80/x,http://b.example",
        "nonsense",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert masked(url) == url
