"""Where accepted jobs are kept beyond this process's memory."""

from worker_runtime.stores.boundary import Archive, Recorded, Store

__all__ = ["Archive", "Recorded", "Store"]
