"""The six queues of the plant, one module each; every module has a `WorkerSettings`."""
