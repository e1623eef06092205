"""The client for code without an event loop: the same one, on a loop in a thread of its own.

with BlockingClient("http://127.0.0.1:8080") as blocking:
    job = blocking.run(blocking.client.enqueue(add, 2, 3))
    print(blocking.run(job.result(timeout_s=5)))
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from worker_runtime.client.remote import Client, Retries

T = TypeVar("T")


class BlockingClient:
    """Holds a `Client`, whose coroutines `run` waits for. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        prefix: str = "/v1",
    ) -> None:
        self.client = Client(url, token=token, timeout_s=timeout_s, retries=retries, prefix=prefix)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="worker-runtime-client", daemon=True
        )

    def __enter__(self) -> BlockingClient:
        self._thread.start()
        self.run(self.client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.run(self.client.__aexit__(kind, error, traceback))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for one of the client's (or a job's) coroutines; interrupting the wait cancels it.

        Raises what the coroutine raises, RuntimeError in the loop's own thread.
        """
        if threading.current_thread() is self._thread:
            call.close()
            raise RuntimeError("run() waits for the thread it was called in: await instead")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
