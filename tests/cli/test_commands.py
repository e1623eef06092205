"""The command line: what it explains, and which setting wins."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from worker_runtime import Runtime, Settings, __version__
from worker_runtime.cli import commands as command_line
from worker_runtime.cli import main


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, prog_name="worker-runtime")
    return result.exit_code, result.output


def test_help_names_every_option_and_its_variable() -> None:
    code, text = invoke("run", "--help")
    assert code == 0
    for word in ("TARGET", "--check", "--burst", "--watch", "--host", "--port", "--dialects"):
        assert word in text
    for variable in ("PORT", "WORKER_HOST", "WORKER_DIALECTS"):
        assert variable in text


def test_version() -> None:
    assert invoke("--version") == (0, f"worker-runtime, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--check", "--burst"], "exclude each other"),
        (["--port", "65536"], "65536 is not in the range"),
        (["--watch", "/no/such/directory"], "does not exist"),
        (["--retries", "3"], "No such option"),
        (["one", "two"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_explained(arguments: list[str], text: str) -> None:
    code, output = invoke("run", *arguments)
    assert code == 2
    assert text in output


class Served:
    """Stands where the process would begin, and keeps what it was given."""

    settings: Settings
    runtime: Runtime

    def serve(self, runtime: Runtime, settings: Settings, **options: Any) -> int:
        self.runtime, self.settings = runtime, settings
        return 0


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served()
    monkeypatch.setattr("worker_runtime.standalone.server.serve", served.serve)
    monkeypatch.setattr("worker_runtime.standalone.server.leave", lambda code: None)
    monkeypatch.setattr("worker_runtime.standalone.log_setup.configure_logging", lambda *_: None)
    return served


def refusal(*arguments: str) -> str:
    """The one line with which `run` refuses to start."""
    code, output = invoke("run", *arguments)
    assert code == 2, output
    assert output.count("\n") == 1, output
    assert output.startswith("worker-runtime: ")
    return output


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("MAX_CONCURRENT", "0"),
        ("QUEUE_CAPACITY", "-1"),
        ("TASK_TIMEOUT", "soon"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("WORKER_DIALECTS", "sandbox,klingon"),
        ("FAILURE_RATE", "1.5"),
        ("WORKER_ALLOW_ANONYMOUS", "perhaps"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable(
    served: Served, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert f"{variable}={value!r}" in refusal()


def test_variables_that_disagree_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_CONCURRENT", "3")
    monkeypatch.setenv("MAX_CONCURRENT_REQUESTS", "4")
    assert "MAX_CONCURRENT and MAX_CONCURRENT_REQUESTS disagree" in refusal()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--dialects", "sandbox,klingon"], "'klingon' is not a dialect; allowed: sandbox"),
        (["no_such_module"], "cannot import 'no_such_module': ModuleNotFoundError"),
        (["worker_runtime:nothing"], "worker_runtime has no attribute 'nothing'"),
    ],
)
def test_wrong_arguments_are_refused(served: Served, arguments: list[str], text: str) -> None:
    assert text in refusal(*arguments)


def test_a_store_that_does_not_exist_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_STORE", "carrier-pigeon://")
    assert "carrier-pigeon://" in refusal()


own_settings = Runtime([], settings=Settings(port=7001, queue_capacity=7, name="own"))


def make_runtime() -> Runtime:
    return Runtime([])


def test_the_command_line_wins_over_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "7002")
    monkeypatch.setenv("WORKER_DIALECTS", "vera")
    monkeypatch.setenv("QUEUE_CAPACITY", "9")
    assert invoke("run", "--port", "7003", "--dialects", "operations,sandbox")[0] == 0
    assert served.settings.port == 7003
    assert served.settings.dialects == ("operations", "sandbox")
    assert served.settings.queue_capacity == 9
    assert served.runtime.settings == served.settings


def test_the_environment_wins_over_the_defaults(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "7002")
    invoke("run", f"{__name__}:make_runtime")
    assert served.settings.port == 7002


def test_what_a_target_says_wins_over_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "7002")
    monkeypatch.setenv("QUEUE_CAPACITY", "9")
    monkeypatch.setenv("WORKER_TOKEN", "secret")
    monkeypatch.setenv("WORKER_HOSTS", "a.example, ::1")
    monkeypatch.setenv("WORKER_CORS_ORIGINS", "https://ui.example")
    invoke("run", f"{__name__}:own_settings")
    assert (served.settings.port, served.settings.name) == (7001, "own")
    assert served.settings.queue_capacity == 7
    assert served.settings.hosts == ("a.example", "::1")
    assert served.settings.cors_origins == ("https://ui.example",)
    assert served.settings.token == "secret"  # what it leaves open, the process's environment says
    invoke("run", f"{__name__}:own_settings", "--port", "7003")
    assert served.settings.port == 7003


def test_an_unexpected_error_is_logged_and_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("worker_runtime.standalone.server.leave", codes.append)
    monkeypatch.setattr(command_line, "_run", lambda *_, **__: 1 / 0)
    invoke("run")
    assert codes == [1]
    assert "ZeroDivisionError" in caplog.text
