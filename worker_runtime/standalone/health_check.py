"""Ask a worker on this machine whether it is healthy; for container health checks."""

from __future__ import annotations

import http.client

from worker_runtime.clock.source import Clock
from worker_runtime.settings import Settings

_TIMEOUT_S = 2.0
_HERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def check_health(settings: Settings) -> tuple[bool, str]:
    """Whether a worker answers 200 on `/livez`, or else on `/health`, at the configured host and
    port within two seconds; and a line that says so."""
    host, port = _HERE.get(settings.host, settings.host), settings.listen_port
    monotonic = Clock().monotonic
    ends_at = monotonic() + _TIMEOUT_S
    answer = ""
    for path in ("/livez", "/health"):
        left_s = ends_at - monotonic()
        if left_s <= 0:
            break
        connection = http.client.HTTPConnection(host, port, timeout=left_s)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return False, f"no worker answers on {host}:{port}: {error}"
        finally:
            connection.close()
        if status == 200:
            return True, f"healthy: {host}:{port}{path}"
        answer = f"{host}:{port}{path} answers {status}"
    return False, f"not healthy: {answer}"
