"""What a job and a task are: plain words and records.

Nothing here does I/O.
"""
