"""Child processes that run tasks and can be killed one at a time."""
