"""What a task is: a function, how it may be called, its policy, and the options of its jobs."""
