"""Jobs and queues looked at, and changed while they work."""
