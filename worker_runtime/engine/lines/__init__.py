"""The jobs that wait in one queue, and which of them may start now."""
