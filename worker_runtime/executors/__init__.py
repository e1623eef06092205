"""Where an attempt runs: on the event loop, in a thread or in a child process."""

from worker_runtime.executors.boundary import Call, Executor

__all__ = ["Call", "Executor"]
