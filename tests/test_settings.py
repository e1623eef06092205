"""Settings come from code, then the environment, then defaults; wrong values are named."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from worker_runtime import ConfigurationError, QueueSettings, Runtime, Settings, task
from worker_runtime.contracts.domains import base_url, made_up_name, typed_name
from worker_runtime.contracts.guides import GUIDES, Dialect
from worker_runtime.settings import checked


def read(_explicit: dict[str, Any] | None = None, **environ: str) -> Settings:
    return Settings.from_environment(environ, **(_explicit or {}))


def test_defaults_hold_where_nothing_is_set() -> None:
    settings = read()
    assert settings == Settings()
    assert settings.default_concurrency == 10
    assert settings.default_threads == 10
    assert settings.listen_port == 8080


def test_the_environment_is_read() -> None:
    settings = read(
        MAX_CONCURRENT="7",
        QUEUE_SIZE="9",
        TASK_TIMEOUT="2.5",
        LOG_LEVEL="warn",
        LOG_FORMAT="json",
        WORKER_ALLOW_ANONYMOUS="yes",
        WORKER_DIALECTS="vera, sandbox",
        WORKER_STORE="memory://",
        UNRELATED="x",
    )
    assert (settings.concurrency, settings.queue_capacity) == (7, 9)
    assert settings.task_timeout_s == 2.5
    assert (settings.log_level, settings.log_format) == ("WARNING", "json")
    assert settings.allow_anonymous is True
    assert settings.dialects == ("vera", "sandbox")
    assert settings.listen_port == 5000


@pytest.mark.parametrize(
    ("dialects", "port", "concurrency", "timeout_s"),
    [
        ("sandbox,vera", 8080, 10, None),
        ("vera,sandbox", 5000, 4, 300.0),
        ("operations", 5003, 10, None),
        (",", 8080, 10, None),
    ],
)
def test_what_nobody_has_set_is_as_the_first_dialects_guide_says(
    dialects: str, port: int, concurrency: int, timeout_s: float | None
) -> None:
    settings = read(WORKER_DIALECTS=dialects)
    assert settings.listen_port == port
    assert settings.default_concurrency == settings.default_threads == concurrency
    assert settings.default_task_timeout_s == timeout_s
    chosen = read(WORKER_DIALECTS=dialects, PORT="1", MAX_CONCURRENT="2", TASK_TIMEOUT="3")
    assert (chosen.listen_port, chosen.default_concurrency) == (1, 2)
    assert chosen.default_task_timeout_s == 3.0


def test_each_dialect_has_a_guide_and_one_without_has_our_own_defaults() -> None:
    assert get_args(Dialect) == tuple(GUIDES) == Settings().dialects
    new = msgspec.structs.replace(Settings(), dialects=("new",))
    assert (new.listen_port, new.default_concurrency) == (8080, 10)
    assert new.default_task_timeout_s is None


def test_a_worker_of_a_fleet_that_was_given_no_name_gets_one_of_its_own() -> None:
    url = "http://backend:8000"
    first, second = read(WORKER_BACKEND_URL=url).name, read({"backend_url": url}).name
    assert first != second
    assert typed_name(first, "training") == first.replace("worker-worker", "training-worker")
    named = read(WORKER_BACKEND_URL=url, WORKER_TYPE="training").name
    assert named.startswith("training-worker-")
    assert typed_name(named, "backtesting") == named
    assert typed_name(made_up_name(None), "a").startswith("a-worker-")
    assert read(WORKER_BACKEND_URL=url, WORKER_NAME="worker-worker-1").name == "worker-worker-1"
    assert read().name == "worker-1"


def test_code_wins_over_the_environment_and_the_environment_over_defaults() -> None:
    settings = read({"concurrency": 3, "threads": None}, MAX_CONCURRENT="5", MAX_WORKERS="6")
    assert settings.concurrency == 3
    assert settings.threads == 6


def test_a_variable_that_code_overrides_is_not_even_parsed() -> None:
    assert read({"concurrency": 3}, MAX_CONCURRENT="many").concurrency == 3


def test_the_threads_that_were_asked_for_are_the_concurrency_where_none_was() -> None:
    assert read(MAX_WORKERS="4").default_concurrency == 4
    assert read(MAX_WORKERS="4", MAX_CONCURRENT="2").default_concurrency == 2
    assert read(MAX_CONCURRENT="2").default_threads == 2


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_not_set(text: str) -> None:
    assert read(MAX_CONCURRENT=text).concurrency is None


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("MAX_CONCURRENT", "0", "must be a whole number, at least 1 and at most 100000"),
        ("MAX_CONCURRENT", "ten", "must be a whole number"),
        ("MAX_CONCURRENT", "1.5", "must be a whole number"),
        ("MAX_CONCURRENT", "9" * 400, "at most 100000"),
        ("QUEUE_CAPACITY", "-5", "at least 1 and at most 100000000"),
        ("PORT", "65536", "at least 0 and at most 65535"),
        ("TASK_TIMEOUT", "nan", "must be a number, above 0 and at most 1000000000"),
        ("TASK_TIMEOUT", "inf", "above 0 and at most 1000000000"),
        ("WORKER_CANCEL_GRACE", "-1", "must be a number, at least 0"),
        ("WORKER_LOOP_LAG_WARN", "inf", "at most 3600"),
        ("FAILURE_RATE", "1.5", "must be a number, at least 0 and at most 1"),
        ("WORKER_ALLOW_ANONYMOUS", "maybe", "must be yes or no"),
        ("LOG_LEVEL", "loud", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("WORKER_HOSTS", "a.example:8080", "must be names or addresses without ports"),
        ("WORKER_HOSTS", "http://a.example", "must be names or addresses without ports"),
        ("WORKER_HOSTS", "*", "must be names or addresses without ports"),
        ("WORKER_CORS_ORIGINS", "*", "must be origins such as https://ui.example:8443"),
        ("WORKER_CORS_ORIGINS", "null", "must be origins such as https://ui.example:8443"),
        ("WORKER_CORS_ORIGINS", "ui.example", "must be origins such as https://ui.example:8443"),
        ("WORKER_CORS_ORIGINS", "http://a/b", "must be origins such as https://ui.example:8443"),
        ("WORKER_DIALECTS", "sandbox,klingon", "must be some of sandbox, vera, operations"),
        ("WORKER_DIALECTS", "sandbox,vera,sandbox", "one is named twice"),
        ("WORKER_NAME", "a\nb", "must be a line of text of at most 128 characters"),
        ("WORKER_ID", "x" * 129, "must be a line of text of at most 128 characters"),
        ("WORKER_COLOR", "x" * 65, "of at most 64 characters"),
        ("KTRDR_API_URL", "backend:8000", "must be an http:// or https:// URL"),
        ("WORKER_PUBLIC_URL", "ftp://a", "must be an http:// or https:// URL"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(name: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(None, **{name: text})
    message = str(caught.value)
    assert message.startswith(f"{name}={text[:20]!r}"[:-1])
    assert problem in message


def test_one_backend_may_be_written_in_two_ways() -> None:
    """A fleet in the middle of a renaming sets the old and the new variable."""
    environ = {
        "KTRDR_API_URL": "http://backend:8000",
        "KTRDR_API_CLIENT_BASE_URL": "http://backend:8000/api/v1/",
    }
    backend_url = Settings.from_environment(environ).backend_url
    assert backend_url is not None
    assert base_url(backend_url) == "http://backend:8000"
    with pytest.raises(ConfigurationError, match="disagree"):
        Settings.from_environment({**environ, "KTRDR_API_URL": "http://other:8000"})


def test_aliases_that_agree_are_one_and_those_that_disagree_are_refused() -> None:
    assert read(MAX_CONCURRENT="5", MAX_CONCURRENT_REQUESTS=" 5 ").concurrency == 5
    with pytest.raises(
        ConfigurationError,
        match="MAX_CONCURRENT and MAX_CONCURRENT_REQUESTS disagree: "
        "MAX_CONCURRENT='5', MAX_CONCURRENT_REQUESTS='6'; set only one of them",
    ):
        read(MAX_CONCURRENT="5", MAX_CONCURRENT_REQUESTS="6")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concurency": 1}, "unknown setting 'concurency'"),
        ({"concurrency": 0}, "concurrency: Expected `int` >= 1"),
        ({"history_ttl_s": -1.0}, "history_ttl_s: Expected `float` >= 0"),
        ({"queues": [QueueSettings("a"), QueueSettings("a")]}, "two have one name"),
        ({"dialects": ("vera", "vera")}, "dialects: one is named twice"),
        ({"queues": [QueueSettings("a b")]}, r"queues: .*name"),
        ({"queues": [QueueSettings("a", concurrency=0)]}, r"queues: .*concurrency"),
    ],
)
def test_wrong_values_in_code_are_named_too(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        checked(Settings(), **changes)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("", False)],
)
def test_whether_others_can_reach_the_worker(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback


def test_a_runtime_reads_the_environment_only_where_no_settings_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_CONCURRENT", "3")
    assert Runtime([]).settings.concurrency == 3
    assert Runtime([], concurrency=4).settings.concurrency == 4
    assert Runtime([], settings=Settings(concurrency=5)).settings.concurrency == 5
    assert Runtime([], concurrency=6, settings=Settings(concurrency=5)).settings.concurrency == 6


def test_queues_come_from_settings_and_from_tasks() -> None:
    @task(queue="mail")
    async def send() -> None: ...

    runtime = Runtime(
        [send],
        concurrency=3,
        queue_capacity=4,
        queues=[QueueSettings("bulk", concurrency=1, capacity=2)],
    )
    found = {info.name: (info.concurrency, info.capacity) for info in runtime.queue_infos()}
    assert found == {"bulk": (1, 2), "default": (3, 4), "mail": (3, 4)}


def test_a_store_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="store='floppy://a'"):
        Runtime([], store="floppy://a")
