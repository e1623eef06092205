"""The other end of the native API."""

from worker_runtime.client.blocking import BlockingClient
from worker_runtime.client.remote import (
    Client,
    ConfiguredClient,
    RemoteJob,
    Retries,
    WorkerUnreachable,
)

__all__ = [
    "BlockingClient",
    "Client",
    "ConfiguredClient",
    "RemoteJob",
    "Retries",
    "WorkerUnreachable",
]
