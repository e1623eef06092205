"""The file itself: who may open it, its tables, and the threads that write and read it."""
