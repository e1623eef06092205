"""One job's way through this process, from its line to its end."""
