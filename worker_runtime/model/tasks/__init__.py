"""What a task is: a function, how it may be called, and the policy its jobs run under."""
