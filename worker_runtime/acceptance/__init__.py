"""A call becomes an accepted job, or is refused."""
