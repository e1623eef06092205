"""The worker that a command asks over its native API, and what such commands have in common.

Exit codes: 0 done, 1 refused or not found, 2 wrong use, 3 no worker answers.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import click

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.bounded import one_line, set_in
from worker_runtime.settings import Settings

EXIT_REFUSED = 1
EXIT_WRONG_USE = 2
EXIT_NO_WORKER = 3

_ANSWER_WITHIN_S = 30.0

Document = dict[str, Any]

# A worker is on this machine or beside it: no proxy that the environment names comes between.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Worker:
    """The native API of the worker at `url` (no trailing slash)."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._token = token

    def ask(self, method: str, path: str, query: Mapping[str, object] | None = None) -> Document:
        """The answer's JSON document. Ends the process with what is wrong."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self.url}{path}{'?' if given else ''}{urllib.parse.urlencode(given)}"
        request = urllib.request.Request(url, method=method)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with _opener.open(request, timeout=_ANSWER_WITHIN_S) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                end(_problem(error), EXIT_REFUSED)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            end(f"no worker answers at {self.url}: {reason}", EXIT_NO_WORKER)
        return _decoded(text, self.url) if text else {}


def _decoded(text: bytes, url: str) -> Document:
    try:
        document: Document = json.loads(text)
    except ValueError:
        end(f"what answers at {url} is no worker", EXIT_NO_WORKER)
    return document


def _problem(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{error.url} answered {error.code} {error.reason}"


def end(message: str, code: int) -> NoReturn:
    """End the process with one line that says what is wrong."""
    click.echo(f"worker-runtime: {one_line(' '.join(message.split()))}", err=True)
    sys.exit(code)


def worker_at(url: str | None) -> Worker:
    """The worker there; None: the one that the environment describes."""
    try:
        settings = Settings.from_environment()
    except ConfigurationError as error:
        end(str(error), EXIT_WRONG_USE)
    if url is None:
        host = settings.host if settings.host not in ("0.0.0.0", "::", "") else "127.0.0.1"
        host = f"[{host}]" if ":" in host else host
        url = f"http://{host}:{settings.listen_port}"
    elif not url.startswith(("http://", "https://")):
        end(f"--url must begin with http:// or https://, not {url!r}", EXIT_WRONG_USE)
    return Worker(url.rstrip("/"), settings.token)


def url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "The worker's address.  [default: http://WORKER_HOST:PORT]"
    return click.option("--url", metavar="URL", help=text)(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(document: Document) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def plain(text: str) -> Any:
    """Text of others is shown as it is: what looks like markup is none, and what a terminal would
    obey is spelled out."""
    from rich.text import Text

    return Text(set_in(text, ""))
