"""A runtime, its jobs and its queues looked at, and changed while they work."""
