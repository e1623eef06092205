"""The sockets a worker listens on, and who may reach them."""

from __future__ import annotations

import errno
import logging
import socket

from worker_runtime.errors import ConfigurationError
from worker_runtime.settings import Settings

logger = logging.getLogger("worker_runtime.server")


# Below the first a token is a slip, such as a shell's `$TOKE`; below the second somebody who can
# send some thousand requests a second finds it.
TOKEN_CHARS_MIN = 6
_TOKEN_CHARS_GOOD = 16


def check_exposure(settings: Settings) -> None:
    """Refuse to serve other machines without a token, or with one that is none to speak of. Raises
    ConfigurationError."""
    if settings.is_loopback:
        return
    if settings.token is not None:
        _check_strength(settings)
        return
    try:
        _addresses(settings.host, settings.listen_port)
    except OSError as error:
        raise refusal(settings.host, settings.listen_port, error) from error
    if not settings.allow_anonymous:
        raise ConfigurationError(
            f"host {settings.host!r} can be reached by other machines and WORKER_TOKEN is not set; "
            "set it, or WORKER_ALLOW_ANONYMOUS=1 to let anyone who can connect run tasks"
        )
    logger.warning(
        "anyone who can reach %s may run tasks: WORKER_ALLOW_ANONYMOUS is set and WORKER_TOKEN "
        "is not",
        settings.host or "this machine",
    )


def _check_strength(settings: Settings) -> None:
    count = len(settings.token or "")
    if count < TOKEN_CHARS_MIN and not settings.allow_anonymous:
        raise ConfigurationError(
            f"host {settings.host!r} can be reached by other machines and WORKER_TOKEN has only "
            f"{count} characters; give it at least {TOKEN_CHARS_MIN}, or set "
            "WORKER_ALLOW_ANONYMOUS=1 to let anyone who can connect run tasks"
        )
    if count < _TOKEN_CHARS_GOOD:
        logger.warning(
            "WORKER_TOKEN has only %d characters and can be guessed; %d random ones cannot",
            count,
            _TOKEN_CHARS_GOOD,
        )


def bind(host: str, port: int, *, option: str = "--port or PORT") -> list[socket.socket]:
    """Sockets bound to every address of `host`, not listening yet; port 0 chooses a free one.

    Binding before anything else is started means that a busy port has no other consequence.
    Raises ConfigurationError, which for a busy port names the `option` to change.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            try:
                sockets.append(_bound(family, (address, port)))
            except OSError as error:
                if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # for example `localhost` on a machine without IPv6
                raise
            port = sockets[0].getsockname()[1]
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise refusal(host, port, error, option) from error
    return sockets


def refusal(
    host: str, port: int, error: OSError, option: str = "--port or PORT"
) -> ConfigurationError:
    """What to tell someone whose host and port cannot be listened on."""
    if isinstance(error, socket.gaierror):
        return ConfigurationError(f"host {host!r} is not an address and has none: {error.strerror}")
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} on {host} is in use; stop what listens there, or choose another with "
            f"{option}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(f"host {host!r} is not an address of this machine")
    return ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}")


def url_of(bound: socket.socket) -> str:
    address, port = bound.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def local_url_of(bound: socket.socket) -> str:
    """Where this machine itself reaches the socket."""
    url = url_of(bound)
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(
        host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # IPv4 first, so that `localhost` is reached where everything else expects it.
    return sorted({(int(entry[0]), str(entry[4][0])) for entry in found})


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made
