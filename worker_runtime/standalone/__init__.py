"""The process that a worker owns: its sockets, its signals, and what it serves."""
